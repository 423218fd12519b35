"""The stage `evaluate`: a model's scores on a recipe's tasks, beside those of the base and of the experts."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from epmq_export.errors import InputError
from epmq_export.models import reference
from epmq_export.models.samples import Sample
from epmq_export.pipeline.job import Job
from epmq_export.pipeline.models import require_no_own_head, require_same_settings
from epmq_export.pipeline.progress import Stages
from epmq_export.pipeline.registry import Registry
from epmq_export.tensors.checkpoint import open_checkpoint
from epmq_export.tensors.compatible import require_fit, require_same_vocabulary
from epmq_export.tensors.directory import PACKED_INDEX
from epmq_export.tensors.packed import Packed
from epmq_export.tensors.source import renamed
from epmq_export.verification.statistics.estimate import Interval
from epmq_export.verification.tasks.bench import Outputs, intervals_of, lines_of, scores_of
from epmq_export.verification.tasks.open import open_bench

log = logging.getLogger(__name__)
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
    outputs_of = _runner(registry, model, job)
    with stages.stage("evaluate") as update:
        update("experts", 0, 3)
        bench = open_bench(job.models, job.tasks, job.device)
        update("base", 1, 3)
        family, source = job.models.family, job.models.base
        base = bench.outputs(partial(reference.outputs, family, source, device=job.device))
        update(model.name, 2, 3)
        outputs = {"base": base, "experts": bench.experts, "model": bench.outputs(outputs_of)}
        rows = {name: lines_of(bench, found) for name, found in outputs.items()}
        scores = {name: scores_of(lines) for name, lines in rows.items()}
        return Evaluation(**scores, intervals={name: intervals_of(lines) for name, lines in rows.items()})


def _runner(registry: Registry, model: Path, job: Job) -> Callable[[Sequence[Sample]], Outputs]:
    """Return a function that gives a model's outputs for samples: the first runtime of a written file, or
    PyTorch.
    """
    if not model.exists():
        raise InputError(f"{model}: no such file or directory")
    family, base, packed = job.models.family, job.checkpoints.base, (model / PACKED_INDEX).exists()
    for name, export in family.exports.items():
        runtime = registry.readers(family, name)[0]
        path = None
        if model.suffix == f".{name}" and model.is_file():
            path = model
        elif model.is_dir() and (model / name).is_dir() and not packed:
            path = registry.formats[name].find(model, family)
        if path is not None:
            return export.as_read(partial(runtime.outputs, path))
    if packed:
        return partial(reference.outputs, registry.open_family(model), Packed(model), device=job.device)
    opened = open_checkpoint(model, base, open_gguf=registry.open_gguf, naming_of=registry.naming_of)
    for note in require_same_settings(base, opened, str(model), registry.require_same_settings):
        log.warning("%s", note)
    require_same_vocabulary(base.directory, opened.directory, str(model))
    require_no_own_head(base, opened)
    source = job.models.like_expert(renamed(opened, family.canonical))
    require_fit(job.models.base, source, str(model))
    return partial(reference.outputs, family, source, device=job.device)
