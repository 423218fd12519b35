"""Accuracy by task, of anything that gives outputs for texts."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epmq_export.runtimes import torch as reference
from epmq_export.sources import Sources
from epmq_export.tasks import Task, accuracy, agreement

Outputs = NDArray[np.float32]
Scores = dict[str, float]


@dataclass(frozen=True)
class Bench:
    """The tasks' evaluation texts, cut to what fits the model, and what outputs are held against.

    A task with labels is scored by accuracy against a frozen head, the base's own embeddings of the label texts (as CLIP builds its
    zero-shot heads); one without by its mean cosine to its expert's outputs.
    """

    tasks: Sequence[Task]
    texts: Mapping[str, list[str]]
    heads: Mapping[str, Tensor]
    experts: Mapping[str, Outputs]
    """Each task's own expert's outputs."""

    @classmethod
    def build(cls, sources: Sources, tasks: Sequence[Task], device: torch.device) -> "Bench":
        family = sources.family
        texts = {task.name: [family.truncate(text) for text in task.evaluation] for task in tasks}
        heads = {task.name: torch.from_numpy(reference.outputs(family, sources.base, task.label_texts, device)) for task in tasks if task.truth is not None}
        experts = {task.name: reference.outputs(family, sources.experts[task.expert], texts[task.name], device) for task in tasks}
        return cls(tasks, texts, heads, experts)

    def outputs(self, run: Callable[[Sequence[str]], Outputs]) -> dict[str, Outputs]:
        """Each task's outputs from one call of `run` on all texts, so that a runtime loads its model once."""
        result = run([text for task in self.tasks for text in self.texts[task.name]])
        ends = np.cumsum([len(self.texts[task.name]) for task in self.tasks])
        return {task.name: part for task, part in zip(self.tasks, np.split(result, ends[:-1]), strict=True)}

    def scores(self, outputs: Mapping[str, Outputs]) -> Scores:
        """By task, and their mean as `average`; 0..1."""
        scores = {task.name: self.score(task, outputs[task.name]) for task in self.tasks}
        return {**scores, "average": sum(scores.values()) / len(scores)}

    def score(self, task: Task, outputs: Outputs) -> float:
        if task.truth is None:
            return agreement(torch.from_numpy(outputs), torch.from_numpy(self.experts[task.name]))
        return accuracy(torch.from_numpy(outputs), self.heads[task.name], task.truth)
