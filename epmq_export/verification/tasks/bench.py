"""Scores by task, of anything that gives outputs for samples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from epmq_export.data.task import Task
from epmq_export.models import reference
from epmq_export.models.heads import Head
from epmq_export.models.model_set import ModelSet
from epmq_export.models.samples import Sample
from epmq_export.recipe.recipe import RecipeVerify
from epmq_export.verification.heads import head_of
from epmq_export.verification.tasks.scores import accuracy, agreement

Outputs = NDArray[np.float32]
Scores = dict[str, float]


@dataclass(frozen=True)
class Comparison:
    """A task's outputs beside the reference's."""

    drop: float | None = None
    """How far its accuracy, or rank correlation, is below the reference's; negative where it is above. None
    for a task without labels.
    """

    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """For the report: by name of the fact, by task."""

    broken: str | None = None
    """What is wrong, without the file's name."""


class Bench(Protocol):
    """The tasks' evaluation samples, cut to what fits the model, and what outputs are held against."""

    @property
    def tasks(self) -> Sequence[Task]: ...

    @property
    def experts(self) -> Mapping[str, Outputs]:
        """What scores are made of, of each task's own expert."""
        ...

    def outputs(self, run: Callable[[Sequence[Sample]], Outputs]) -> dict[str, Outputs]:
        """Of each task, what scores are made of."""
        ...

    def scores(self, outputs: Mapping[str, Outputs]) -> Scores:
        """By task, and their mean as `average`; 0..1."""
        ...

    def compare(
        self, task: Task, outputs: Outputs, reference: Outputs, verify: RecipeVerify
    ) -> Comparison: ...


def accuracy_drop(
    task: Task, score: float, reference: float, tolerance: float, measure: str = "accuracy"
) -> Comparison:
    drop = reference - score
    # Scores are counts over lines: allow for the last bit of their quotients.
    if drop <= tolerance + 1e-9:
        return Comparison(drop)
    return Comparison(
        drop,
        broken=(
            f"task {task.name}: {measure} {score:.3f} is {drop:.3f} below the reference's "
            f"{reference:.3f}, tolerance {tolerance}"
        ),
    )


@dataclass(frozen=True)
class HeadBench:
    """A task with labels is scored by accuracy under its frozen head; one without by its mean cosine to its
    expert's outputs.
    """

    tasks: Sequence[Task]
    samples: Mapping[str, list[Sample]]
    heads: Mapping[str, Head]
    experts: Mapping[str, Outputs]
    """Each task's own expert's outputs."""

    @classmethod
    def build(cls, sources: ModelSet, tasks: Sequence[Task], device: torch.device) -> "HeadBench":
        family = sources.family
        samples = {task.name: [family.truncate(sample) for sample in task.evaluation] for task in tasks}
        heads = {task.name: head_of(task, family, sources.base, device) for task in tasks}
        experts = {
            task.name: reference.outputs(family, sources.experts[task.expert], samples[task.name], device)
            for task in tasks
        }
        return cls(tasks, samples, {name: head for name, head in heads.items() if head is not None}, experts)

    def outputs(self, run: Callable[[Sequence[Sample]], Outputs]) -> dict[str, Outputs]:
        """From one call of `run` on all samples, so that a runtime loads its model once."""
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

    def compare(self, task: Task, outputs: Outputs, reference: Outputs, verify: RecipeVerify) -> Comparison:
        if task.truth is not None:
            return accuracy_drop(task, self.score(task, outputs), self.score(task, reference), verify.tasks)
        cosine = agreement(torch.from_numpy(outputs), torch.from_numpy(reference))
        low = cosine < verify.agreement
        sentence = (
            (
                f"task {task.name}: mean cosine to the reference is {cosine:.4f}, expected at least "
                f"{verify.agreement}"
            )
            if low
            else None
        )
        return Comparison(None, {"agreement": {task.name: cosine}}, sentence)
