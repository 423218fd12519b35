"""Reload every written file in its runtime, and judge it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch

from epmq_export import files
from epmq_export.data.task import Task
from epmq_export.models import reference
from epmq_export.models.family import Family
from epmq_export.models.format import Format
from epmq_export.models.model_set import ModelSet
from epmq_export.models.runtime import Runtime
from epmq_export.recipe.recipe import RecipeVerify
from epmq_export.tensors.packed import Packed
from epmq_export.verification.checks import Check, check_codes, check_graph, check_metadata, check_tasks
from epmq_export.verification.tasks.bench import Bench, Outputs, Scores
from epmq_export.verification.tasks.open import open_bench


@dataclass(frozen=True)
class Written:
    """A written file, who reads it, and what it was written from."""

    path: Path
    """The file that tasks are judged by; others of the format lie beside it."""

    format: Format
    runtime: Runtime
    packed: Packed


@dataclass(frozen=True)
class Verdict:
    """What was found of the files of a model."""

    scores: dict[str, Scores]
    """By row (base, experts, merged, reference, each file in its runtime), then by task; empty without a
    recipe.
    """

    files: list[dict[str, Any]]
    """One entry for each file in each runtime: `files` of report.json."""

    broken: list[str]
    """What is wrong, a sentence each; empty when all is well."""

    @property
    def passed(self) -> bool:
        """Return whether every file is as good as the reference."""
        return not self.broken


@dataclass(frozen=True)
class Judge:
    """The tasks of a recipe with the outputs that written files are held against."""

    bench: Bench
    reference: Mapping[str, Outputs]
    scores: dict[str, Scores]
    verify: RecipeVerify

    @classmethod
    def build(
        cls,
        sources: ModelSet,
        tasks: Sequence[Task],
        packed: Packed,
        verify: RecipeVerify,
        device: torch.device,
        progress: Callable[[str], None],
    ) -> "Judge":
        progress("experts")
        bench = open_bench(sources, tasks, device)
        rows: dict[str, Scores] = {}
        outputs: dict[str, Outputs] = {}
        for name, source in (("base", sources.base), ("merged", sources.merged), ("reference", packed)):
            progress(name)
            outputs = bench.outputs(partial(reference.outputs, sources.family, source, device=device))
            rows[name] = bench.scores(outputs)
        rows["experts"] = bench.scores(bench.experts)
        order = ("base", "experts", "merged", "reference")
        return cls(bench, outputs, {name: rows[name] for name in order}, verify)


def verify(
    written: Sequence[Written],
    family: Family,
    tolerances: RecipeVerify,
    judge: Judge | None,
    progress: Callable[[str], None],
) -> Verdict:
    """Check every file; without a judge (no recipe at hand) the tasks are left out and the report says so.

    MissingRuntime where a runtime is not installed. A file that cannot be read is a broken check, not an
    error.
    """
    scores: dict[str, Scores] = dict(judge.scores) if judge is not None else {}
    entries: list[dict[str, Any]] = []
    broken: list[str] = []
    for file in written:
        row = f"{file.format.name} in {file.runtime.name}"
        version = file.runtime.version()
        model = file.format.open(file.path, family)
        checks: list[Check] = []
        progress(f"{row}: codes")
        checks.append(check_codes(model, file.packed, file.format.left_out(family), file.runtime))
        progress(f"{row}: metadata")
        checks.append(check_metadata(model, file.packed))
        progress(f"{row}: graph")
        checks.append(
            check_graph(model, file.packed, family.exports[file.format.name], file.runtime, tolerances.graph)
        )
        if judge is not None:
            progress(f"{row}: tasks")
            check, found = check_tasks(
                file.path, judge.bench, judge.reference, partial(file.runtime.outputs, file.path), tolerances
            )
            checks.append(check)
            if found:
                scores[row] = found
        entries.append(
            {
                "path": str(file.path),
                "format": file.format.name,
                "packed": str(file.packed.directory),
                "sha256": files.sha256(file.path),
                "bytes": file.path.stat().st_size,
                "others": [
                    {"path": str(path), "sha256": files.sha256(path), "bytes": path.stat().st_size}
                    for path in model.files(family)
                    if path != file.path and path.is_file()  # one that is gone breaks the checks
                ],
                "runtime": file.runtime.name,
                "runtime_version": version,
                "checks": {check.name: dict(check.facts) for check in checks}
                | ({} if judge is not None else {"tasks": None}),
                "notes": {
                    **model.notes(),
                    **file.runtime.notes([*model.files(family)]),
                }
                if all(check.passed for check in checks[:1])
                else {},
            }
        )
        broken += [sentence for check in checks for sentence in check.broken]
    return Verdict(scores, entries, broken)
