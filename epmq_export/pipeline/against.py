"""The comparison of a model with another one, whatever wrote them: is it as good as that one?"""

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from epmq_export import files
from epmq_export.data.request import DataRequest
from epmq_export.data.text_rows import prompted
from epmq_export.data.texts import read_texts
from epmq_export.errors import InputError
from epmq_export.models.family import Run
from epmq_export.pipeline.job import Job
from epmq_export.pipeline.progress import Stages
from epmq_export.pipeline.registry import Registry
from epmq_export.pipeline.runnable import Runnable, family_of, runnable_alone, runnable_of
from epmq_export.recipe.recipe import RecipeVerify
from epmq_export.verification.checks import Check
from epmq_export.verification.judge import Judge
from epmq_export.verification.statistics.lines import Lines
from epmq_export.verification.tasks.bench import lines_of
from epmq_export.verification.tasks.open import open_bench
from epmq_export.verification.tasks.texts import Width, texts_judge
from epmq_export.verification.tasks_check import check_tasks
from epmq_export.verification.verdict import ComparedModel, FileVerdict, HashedFile, Verdict


def compare_on_texts(
    registry: Registry, model: Path, other: Path, texts: Path, device: torch.device, stages: Stages
) -> Verdict:
    """Judge a model by how far its outputs are from another one's on the texts of a file, with the default
    margins.

    Raises InputError where one of them cannot be opened, or the other one does not run.
    """
    read = [prompted("{}", text) for text in read_texts(DataRequest(path=texts), "test").samples]
    reference, own = (family_of(registry, path) for path in (other, model))
    families = [family for family in (reference, own) if family is not None]
    if reference is not None and own is not None and reference.name != own.name:
        raise InputError(
            f"{model}: found a {own.name}, expected a {reference.name} as {other}: two files of one model"
        )
    known = families[0] if families else None
    theirs = runnable_alone(registry, other, reference or known, device)
    ours = runnable_alone(registry, model, own or known, device)
    judged = partial(texts_judge, texts.stem, read, families)
    # A text without labels has no score but its likeness to the other model's output, which the loss tells.
    return _compared(ours, theirs, judged, RecipeVerify(), stages, scored=False)


def compare_on_tasks(registry: Registry, model: Path, other: Path, job: Job, stages: Stages) -> Verdict:
    """Judge a model by how much worse than another one it is on a recipe's tasks, by the recipe's margins.

    Raises InputError where one of them does not fit the recipe's base, or the other one does not run.
    """
    theirs, ours = (runnable_of(registry, path, job) for path in (other, model))

    def judged(run: Run) -> Judge:
        bench = open_bench(job.models, job.tasks, job.device)
        outputs = bench.outputs(run)
        return Judge(bench=bench, reference=outputs, rows={"reference": lines_of(bench, outputs)})

    return _compared(ours, theirs, judged, job.recipe.verify, stages, scored=True)


def write_comparison(verdict: Verdict, place: Path) -> None:
    """Write what a comparison found as JSON, whole or not at all."""
    with files.whole(place) as built:
        text = json.dumps(verdict.as_dict(), indent=1, ensure_ascii=False)
        built.write_text(f"{text}\n", encoding="utf-8")


def _compared(
    ours: Runnable,
    theirs: Runnable,
    judged: Callable[[Run], Judge],
    verify: RecipeVerify,
    stages: Stages,
    scored: bool,
) -> Verdict:
    """Return the verdict on a model. `judged` is given what runs the other one; `scored` says whether tasks
    have scores.
    """
    with stages.stage("compare") as update:
        update(f"{theirs.path.name} in {theirs.runtime}", 0, 2)
        width = Width()
        judge = judged(width.noted(theirs.run))
        update(f"{ours.path.name} in {ours.runtime}", 1, 2)
        run = width.required(ours.run, str(ours.path))
        check, lines = check_tasks(ours.path, judge, run, None, verify)
    if not scored:
        check = Check(check.name, {**check.facts, "ratio": None}, check.broken, check.warnings)
    rows: dict[str, dict[str, Lines]] = {}
    main, *others = map(HashedFile.of, ours.files)
    file = FileVerdict(
        file=main,
        others=others,
        format=ours.format,
        packed=None,
        runtime=ours.runtime,
        runtime_version=ours.version,
        checks={check.name: check},
        lines=lines,
        notes={},
    )
    if scored and lines:
        rows = {"reference": dict(judge.rows["reference"]), file.row: dict(lines)}
    return Verdict(rows, [file], _told(theirs))


def _told(model: Runnable) -> ComparedModel:
    return ComparedModel(
        path=model.path,
        files=[*map(HashedFile.of, model.files)],
        format=model.format,
        runtime=model.runtime,
        runtime_version=model.version,
    )
