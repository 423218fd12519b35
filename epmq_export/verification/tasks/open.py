"""What a family's tasks are judged by."""

from collections.abc import Sequence
from typing import cast

import torch

from epmq_export.data.task import Task
from epmq_export.models.family import LanguageFamily
from epmq_export.models.model_set import ModelSet
from epmq_export.verification.tasks.bench import Bench, HeadBench
from epmq_export.verification.tasks.language import LanguageBench


def open_bench(sources: ModelSet, tasks: Sequence[Task], device: torch.device) -> Bench:
    """Its experts run already."""
    if sources.family.modality == "language":
        return LanguageBench.build(cast(LanguageFamily, sources.family), sources, tasks, device)
    return HeadBench.build(sources, tasks, device)
