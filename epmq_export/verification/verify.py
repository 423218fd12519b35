"""The verification of written files: each is reloaded in its runtime and judged."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from epmq_export.files.scratch import Scratch
from epmq_export.models.family import Family
from epmq_export.models.format import Format, WrittenModel
from epmq_export.models.heap import give_back
from epmq_export.models.runtime import Runtime
from epmq_export.models.samples import Sample
from epmq_export.recipe.recipe import RecipeVerify
from epmq_export.tensors.packed import Packed
from epmq_export.verification.checks import Check, check_codes, check_graph, check_metadata
from epmq_export.verification.judge import Judge
from epmq_export.verification.statistics.lines import Lines
from epmq_export.verification.tasks.bench import Outputs
from epmq_export.verification.tasks_check import check_tasks
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
    """Check every file: codes and metadata once, graph and tasks in each runtime that reads it.

    Without a judge, where there is no recipe, the tasks are left out and the report says so. Raises
    MissingRuntime where a runtime is not installed. A file that cannot be read is a broken check, not an
    error.
    """
    found = [verdict for file in written for verdict in _judged(file, family, tolerances, judge, progress)]
    rows = {} if judge is None else dict(judge.rows)
    rows |= {verdict.row: verdict.lines for verdict in found if verdict.lines}
    evaluated = {} if judge is None else {task.name: task.evaluated for task in judge.bench.tasks}
    return Verdict(rows, found, evaluated=evaluated)


def _judged(
    file: Written,
    family: Family,
    tolerances: RecipeVerify,
    judge: Judge | None,
    progress: Callable[[str], None],
) -> Iterator[FileVerdict]:
    """Give the verdict on a file in each of its runtimes."""
    versions = [runtime.version() for runtime in file.runtimes]
    model, name = file.format.open(file.path, family), file.format.name
    progress(f"{name}: codes")
    codes = check_codes(model, file.packed, file.format.left_out(family), file.runtimes)
    progress(f"{name}: metadata")
    metadata = check_metadata(model, file.packed)
    paths = [path for path in model.files(family) if path == file.path or path.is_file()]
    main, *others = map(HashedFile.of, paths)  # A file that is gone breaks the checks.
    for runtime, version in zip(file.runtimes, versions, strict=True):
        progress(f"{name} in {runtime.name}: graph")
        give_back()
        graph = check_graph(model, file.packed, family.exports[name], runtime, tolerances.graph)
        checks = [codes.of(runtime.name), metadata, graph]
        lines: Mapping[str, Lines] = {}
        if judge is not None:
            progress(f"{name} in {runtime.name}: tasks")
            give_back()
            export = family.exports[name]
            run = export.as_read(partial(runtime.outputs, file.path), file.path)
            exact = export.as_read(partial(_exactly, model, runtime), file.path)
            exactly = exact if graph.passed else None
            tasks, lines = check_tasks(file.path, judge, run, exactly, tolerances)
            checks.append(tasks)
        yield FileVerdict(
            file=main,
            others=others,
            format=name,
            packed=file.packed.directory,
            runtime=runtime.name,
            runtime_version=version,
            checks={check.name: check for check in checks},
            lines=lines,
            notes=_notes(model, runtime, paths, codes, graph),
        )


def _exactly(model: WrittenModel, runtime: Runtime, samples: Sequence[Sample]) -> Outputs:
    """Return the outputs of what the file holds, without low-precision kernels."""
    with Scratch("verify") as scratch:
        return runtime.outputs(model.exact(model.path, scratch), samples, exact=True)


def _notes(
    model: WrittenModel, runtime: Runtime, paths: Sequence[Path], codes: Check, graph: Check
) -> Mapping[str, Any]:
    """Return the facts of a file whose codes are right, with those of the runtime where it ran the file."""
    if not codes.passed:
        return {}
    ran = graph.facts["value"] is not None
    return {**model.notes(), **(runtime.notes(paths) if ran else {})}
