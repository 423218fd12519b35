"""The scores on tasks of any model that gives outputs for samples."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from epmq_export.data.task import Task
from epmq_export.models import reference
from epmq_export.models.heads import Head
from epmq_export.models.model_set import ModelSet
from epmq_export.models.samples import Sample
from epmq_export.verification.heads import head_of
from epmq_export.verification.statistics.estimate import Interval
from epmq_export.verification.statistics.lines import Graded, Lines, Right
from epmq_export.verification.statistics.pooled import pooled
from epmq_export.verification.tasks.comparison import Comparison, Distance, Measure, shared_neighbours
from epmq_export.verification.tasks.scores import cosines, predict, right, unit

Outputs = NDArray[np.float32]
Scores = dict[str, float]


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

    def measure(self, task: Task) -> Measure:
        """Return what the task is judged by."""
        ...

    def lines(self, task: Task, outputs: Outputs) -> Lines:
        """Return what the outputs make of each line of the task. The score is 0..1, or -1..1 for rank
        correlations.
        """
        ...

    def compare(self, task: Task, outputs: Outputs, reference: Outputs) -> Comparison:
        """Return the outputs of a task compared with the reference's."""
        ...

    def opening(self, lines: int) -> "Bench":
        """Return the bench of the first lines of each task. What it has of the experts is not to be asked
        for.
        """
        ...


def lines_of(bench: Bench, outputs: Mapping[str, Outputs]) -> dict[str, Lines]:
    """Return what the outputs make of each line, by task."""
    return {task.name: bench.lines(task, outputs[task.name]) for task in bench.tasks}


def scores_of(lines: Mapping[str, Lines]) -> Scores:
    """Return the score of each task, and their mean as `average`: 0..1, or -1..1 for rank correlations."""
    scores = {name: each.value for name, each in lines.items()}
    return {**scores, "average": sum(scores.values()) / len(scores)}


def intervals_of(lines: Mapping[str, Lines]) -> dict[str, Interval]:
    """Return the interval of 95 % of each score and of their mean, `average`."""
    found = {name: each.estimate for name, each in lines.items()}
    average = pooled(list(found.values()))
    return {name: each.interval for name, each in {**found, "average": average}.items()}


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

    def measure(self, task: Task) -> Measure:
        return Measure.COSINE if task.truth is None else Measure.ACCURACY

    def lines(self, task: Task, outputs: Outputs) -> Lines:
        """Return which lines are right or, where the task has no labels, the cosine of each line's output to
        that of its expert.
        """
        found = torch.from_numpy(outputs)
        if task.truth is None:
            return Graded.each(cosines(found, torch.from_numpy(self.experts[task.name])).numpy())
        return Right(right(found, self.heads[task.name], task.truth).numpy())

    def compare(self, task: Task, outputs: Outputs, reference: Outputs) -> Comparison:
        found, expected = torch.from_numpy(outputs), torch.from_numpy(reference)
        ours, theirs = unit(found, "an output").numpy(), unit(expected, "a reference output").numpy()
        same: Lines | None
        same, neighbours = shared_neighbours(ours, theirs)
        if (head := self.heads.get(task.name)) is not None:
            same = Right((predict(found, head) == predict(expected, head)).numpy())
        distance = Distance(Measure.COSINE, Graded.each(1 - cosines(found, expected).numpy()))
        return Comparison(distance=distance, same_first=same, neighbours=neighbours)

    def opening(self, lines: int) -> "HeadBench":
        return replace(self, samples={name: samples[:lines] for name, samples in self.samples.items()})
