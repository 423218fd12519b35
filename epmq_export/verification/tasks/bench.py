"""The scores on tasks of any model that gives outputs for samples."""

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
    """The outputs of a task compared with the reference's."""

    drop: float | None = None
    """How far its accuracy or rank correlation is below the reference's: negative where it is above, None for
    a task without labels.
    """

    facts: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """Facts for the report, by the name of the fact and then by task."""

    broken: str | None = None
    """The fault in a sentence, without the file's name, or None."""


class Bench(Protocol):
    """The evaluation samples of the tasks, cut to the length of the model, with the experts' outputs."""

    @property
    def tasks(self) -> Sequence[Task]: ...

    @property
    def experts(self) -> Mapping[str, Outputs]:
        """Return the outputs of each task's own expert."""
        ...

    def outputs(self, run: Callable[[Sequence[Sample]], Outputs]) -> dict[str, Outputs]:
        """Return the outputs that scores are computed from, by task."""
        ...

    def scores(self, outputs: Mapping[str, Outputs]) -> Scores:
        """Return the score of each task, and their mean as `average`: 0..1, or -1..1 for rank
        correlations.
        """
        ...

    def compare(self, task: Task, outputs: Outputs, reference: Outputs, verify: RecipeVerify) -> Comparison:
        """Return the outputs of a task compared with the reference's, under the tolerances `verify`."""
        ...


def accuracy_drop(
    task: Task, score: float, reference: float, tolerance: float, measure: str = "accuracy"
) -> Comparison:
    """Return a comparison of two scores of a task."""
    drop = reference - score
    # Scores are counts divided by counts, so the last bit of the quotient is allowed for.
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
    """The bench of models that are read by heads. A task with labels is scored by its accuracy under the
    frozen head, and one without by its mean cosine to the outputs of its expert.
    """

    tasks: Sequence[Task]
    samples: Mapping[str, list[Sample]]
    heads: Mapping[str, Head]
    experts: Mapping[str, Outputs]
    """The outputs of each task's own expert."""

    @classmethod
    def build(cls, sources: ModelSet, tasks: Sequence[Task], device: torch.device) -> "HeadBench":
        """Make the heads and run the experts."""
        family = sources.family
        samples = {task.name: [family.truncate(sample) for sample in task.evaluation] for task in tasks}
        heads = {task.name: head_of(task, family, sources.base, device) for task in tasks}
        experts = {
            task.name: reference.outputs(family, sources.experts[task.expert], samples[task.name], device)
            for task in tasks
        }
        known = {name: head for name, head in heads.items() if head is not None}
        return cls(tasks=tasks, samples=samples, heads=known, experts=experts)

    def outputs(self, run: Callable[[Sequence[Sample]], Outputs]) -> dict[str, Outputs]:
        """Return the outputs of each task. `run` is called once on all samples, so that a runtime loads its
        model once.
        """
        result = run([sample for task in self.tasks for sample in self.samples[task.name]])
        ends = np.cumsum([len(self.samples[task.name]) for task in self.tasks])
        return {task.name: part for task, part in zip(self.tasks, np.split(result, ends[:-1]), strict=True)}

    def scores(self, outputs: Mapping[str, Outputs]) -> Scores:
        """Return the score of each task, 0..1, and their mean as `average`."""
        scores = {task.name: self.score(task, outputs[task.name]) for task in self.tasks}
        return {**scores, "average": sum(scores.values()) / len(scores)}

    def score(self, task: Task, outputs: Outputs) -> float:
        """Return the accuracy of a task, or the mean cosine where it has no labels."""
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
