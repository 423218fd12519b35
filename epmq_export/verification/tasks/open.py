"""The choice of a bench for a family."""

from collections.abc import Sequence

import torch

from epmq_export.data.task import Task
from epmq_export.models.family import heads_of
from epmq_export.models.model_set import ModelSet
from epmq_export.verification.tasks.bench import Bench, HeadBench
from epmq_export.verification.tasks.classifying import ClassifierBench
from epmq_export.verification.tasks.language import LanguageBench


def open_bench(sources: ModelSet, tasks: Sequence[Task], device: torch.device) -> Bench:
    """Return the bench of the family's tasks. It has run the experts."""
    if sources.family.language is not None:
        return LanguageBench.build(sources, tasks, device)
    bench = ClassifierBench if heads_of(sources.family) else HeadBench
    return bench.build(sources, tasks, device)
