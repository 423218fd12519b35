"""Accuracy by task, of anything that gives outputs for samples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray

from epmq_export.data.sample import Sample
from epmq_export.data.scores import Head, accuracy, agreement
from epmq_export.data.task import Task
from epmq_export.heads import head_of
from epmq_export.runtimes import torch as reference
from epmq_export.sources import Sources

Outputs = NDArray[np.float32]
Scores = dict[str, float]


@dataclass(frozen=True)
class Bench:
    """The tasks' evaluation samples, cut to what fits the model, and what outputs are held against.

    A task with labels is scored by accuracy under its frozen head; one without by its mean cosine to its expert's outputs.
    """

    tasks: Sequence[Task]
    samples: Mapping[str, list[Sample]]
    heads: Mapping[str, Head]
    experts: Mapping[str, Outputs]
    """Each task's own expert's outputs."""

    @classmethod
    def build(cls, sources: Sources, tasks: Sequence[Task], device: torch.device) -> "Bench":
        family = sources.family
        samples = {task.name: [family.truncate(sample) for sample in task.evaluation] for task in tasks}
        heads = {task.name: head_of(task, family, sources.base, device) for task in tasks}
        experts = {task.name: reference.outputs(family, sources.experts[task.expert], samples[task.name], device) for task in tasks}
        return cls(tasks, samples, {name: head for name, head in heads.items() if head is not None}, experts)

    def outputs(self, run: Callable[[Sequence[Sample]], Outputs]) -> dict[str, Outputs]:
        """Each task's outputs from one call of `run` on all samples, so that a runtime loads its model once."""
        result = run([sample for task in self.tasks for sample in self.samples[task.name]])
        ends = np.cumsum([len(self.samples[task.name]) for task in self.tasks])
        return {task.name: part for task, part in zip(self.tasks, np.split(result, ends[:-1]), strict=True)}

    def scores(self, outputs: Mapping[str, Outputs]) -> Scores:
        """By task, and their mean as `average`; 0..1."""
        scores = {task.name: self.score(task, outputs[task.name]) for task in self.tasks}
        return {**scores, "average": sum(scores.values()) / len(scores)}

    def score(self, task: Task, outputs: Outputs) -> float:
        if task.truth is None:
            return agreement(torch.from_numpy(outputs), torch.from_numpy(self.experts[task.name]))
        return accuracy(torch.from_numpy(outputs), self.heads[task.name], task.truth)
