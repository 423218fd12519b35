"""The stage `evaluate`: a model's scores on a recipe's tasks, beside those of the base and of the experts."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from epmq_export.models import reference
from epmq_export.pipeline.job import Job
from epmq_export.pipeline.progress import Stages
from epmq_export.pipeline.registry import Registry
from epmq_export.pipeline.runnable import runnable_of
from epmq_export.verification.statistics.estimate import Interval
from epmq_export.verification.tasks.bench import intervals_of, lines_of, scores_of
from epmq_export.verification.tasks.open import open_bench

Scores = Mapping[str, float]
"""A score for each task, and their mean as `average`: 0..1, or -1..1 for rank correlations."""


@dataclass(frozen=True)
class Evaluation:
    """The scores of a model on a recipe's tasks, beside those of the base and the experts."""

    base: Scores
    """The scores of the base model."""

    experts: Scores
    """The score of each task's own expert."""

    model: Scores
    """The scores of the model that was evaluated."""

    intervals: Mapping[str, Mapping[str, Interval]]
    """The interval of 95 % of each score, by `base`, `experts` and `model`."""

    def as_dict(self) -> dict[str, Any]:
        """Return the scores by the names of the models, and their intervals, as `epmq evaluate --json` prints
        them.
        """
        scores = {"base": dict(self.base), "experts": dict(self.experts), "model": dict(self.model)}
        return {**scores, "intervals": {name: dict(ends) for name, ends in self.intervals.items()}}


def evaluate(registry: Registry, model: Path, job: Job, stages: Stages) -> Evaluation:
    """Score a model directory, a written file, or a packed checkpoint. Raises InputError where it is none of
    these.
    """
    runnable = runnable_of(registry, model, job)
    with stages.stage("evaluate") as update:
        update("experts", 0, 3)
        bench = open_bench(job.models, job.tasks, job.device)
        update("base", 1, 3)
        family, source = job.models.family, job.models.base
        base = bench.outputs(partial(reference.outputs, family, source, device=job.device))
        update(model.name, 2, 3)
        outputs = {"base": base, "experts": bench.experts, "model": bench.outputs(runnable.run)}
        rows = {name: lines_of(bench, found) for name, found in outputs.items()}
        scores = {name: scores_of(lines) for name, lines in rows.items()}
        return Evaluation(**scores, intervals={name: intervals_of(lines) for name, lines in rows.items()})
