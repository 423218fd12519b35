"""The verification of written files: each is reloaded in its runtime and judged."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from epmq_export.models.family import Family
from epmq_export.models.format import Format, WrittenModel
from epmq_export.models.runtime import Runtime
from epmq_export.recipe.recipe import RecipeVerify
from epmq_export.tensors.packed import Packed
from epmq_export.verification.checks import Check, check_codes, check_graph, check_metadata, check_tasks
from epmq_export.verification.judge import Judge
from epmq_export.verification.tasks.bench import Scores
from epmq_export.verification.verdict import FileVerdict, HashedFile, Verdict


@dataclass(frozen=True)
class Written:
    """A written file, its runtimes, and the packed checkpoint that it was written from."""

    path: Path
    """The file that tasks are judged by. Others of the format lie beside it."""

    format: Format
    runtimes: Sequence[Runtime]
    packed: Packed


def verify(
    written: Sequence[Written],
    family: Family,
    tolerances: RecipeVerify,
    judge: Judge | None,
    progress: Callable[[str], None],
) -> Verdict:
    """Check every file. Without a judge, where there is no recipe, the tasks are left out and the report says
    so.

    Raises MissingRuntime where a runtime is not installed. A file that cannot be read is a broken check, not
    an error.
    """
    scores: dict[str, Scores] = dict(judge.scores) if judge is not None else {}
    found: list[FileVerdict] = []
    broken: list[str] = []
    for file in written:
        versions = {runtime.name: runtime.version() for runtime in file.runtimes}
        model, name = file.format.open(file.path, family), file.format.name
        progress(f"{name}: codes")
        codes = check_codes(model, file.packed, file.format.left_out(family), file.runtimes)
        progress(f"{name}: metadata")
        metadata = check_metadata(model, file.packed)
        broken += [*codes.broken, *metadata.broken]
        paths = [path for path in model.files(family) if path == file.path or path.is_file()]
        main, *others = map(HashedFile.of, paths)  # A file that is gone breaks the checks.
        for runtime in file.runtimes:
            row = f"{name} in {runtime.name}"
            progress(f"{row}: graph")
            graph = check_graph(model, file.packed, family.exports[name], runtime, tolerances.graph)
            checks = [codes.of(runtime.name), metadata, graph]
            if judge is not None:
                progress(f"{row}: tasks")
                run = partial(runtime.outputs, file.path)
                tasks, rated = check_tasks(file.path, judge.bench, judge.reference, run, tolerances)
                checks.append(tasks)
                scores |= {row: rated} if rated else {}
            broken += [sentence for check in checks[2:] for sentence in check.broken]
            verdict = FileVerdict(
                file=main,
                others=others,
                format=name,
                packed=file.packed.directory,
                runtime=runtime.name,
                runtime_version=versions[runtime.name],
                checks={check.name: check for check in checks},
                notes=_notes(model, runtime, paths, codes, graph),
            )
            found.append(verdict)
    return Verdict(scores, found, broken)


def _notes(
    model: WrittenModel, runtime: Runtime, paths: Sequence[Path], codes: Check, graph: Check
) -> Mapping[str, Any]:
    """Return the facts of a file whose codes are right, with those of the runtime where it ran the file."""
    if not codes.passed:
        return {}
    ran = graph.facts["value"] is not None
    return {**model.notes(), **(runtime.notes(paths) if ran else {})}
