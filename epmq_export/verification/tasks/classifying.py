"""The tasks of a model that has a classifier for each of them."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from epmq_export.data.task import Task
from epmq_export.models import reference
from epmq_export.models.classifiers import columns_of
from epmq_export.models.family import heads_of
from epmq_export.models.heads import Columns
from epmq_export.models.model_set import ModelSet
from epmq_export.models.samples import Sample
from epmq_export.verification.statistics.lines import Graded, Lines, Ranked, Right
from epmq_export.verification.tasks.bench import Outputs
from epmq_export.verification.tasks.comparison import Comparison, Distance, Measure
from epmq_export.verification.tasks.scores import finite


@dataclass(frozen=True)
class ClassifierBench:
    """The bench of models with a classifier for each task. A task is scored by how often its class is right
    or, where its classifier gives a number, by the rank correlation with the right numbers. Where it has no
    labels, what its own expert says is right.
    """

    tasks: Sequence[Task]
    samples: Mapping[str, list[Sample]]
    columns: Mapping[str, slice]
    """The columns of the model's outputs that are each task's scores."""

    experts: Mapping[str, Outputs]
    """The scores of each task's own expert."""

    @classmethod
    def build(cls, sources: ModelSet, tasks: Sequence[Task], device: torch.device) -> "ClassifierBench":
        """Run the experts."""
        family, columns = sources.family, columns_of(heads_of(sources.family))
        samples = {task.name: [family.truncate(sample) for sample in task.evaluation] for task in tasks}
        experts = {}
        for task in tasks:
            expert = sources.experts[task.expert]
            found = reference.outputs(family, expert, samples[task.name], device)
            experts[task.name] = found[:, columns[task.name]]
        return cls(tasks=tasks, samples=samples, columns=columns, experts=experts)

    def outputs(self, run: Callable[[Sequence[Sample]], Outputs]) -> dict[str, Outputs]:
        """Return the scores of each task by its own classifier. `run` is called once on all samples."""
        result = run([sample for task in self.tasks for sample in self.samples[task.name]])
        ends = np.cumsum([len(self.samples[task.name]) for task in self.tasks])
        parts = zip(self.tasks, np.split(result, ends[:-1]), strict=True)
        return {task.name: part[:, self.columns[task.name]] for task, part in parts}

    def measure(self, task: Task) -> Measure:
        if task.truth is None and task.expected is None:
            return Measure.EXPERT
        return Measure.RANKS if self._numbers(task) else Measure.ACCURACY

    def lines(self, task: Task, outputs: Outputs) -> Lines:
        """Return which lines are right, or the number of each line."""
        found, expert = (
            finite(torch.from_numpy(rows), "an output") for rows in (outputs, self.experts[task.name])
        )
        if self._numbers(task):
            own = expert[:, 0].tolist()
            right = own if task.expected is None else [float(number) for number in task.expected]
            return Ranked.of(found[:, 0].tolist(), right)
        truth = expert.argmax(1) if task.truth is None else task.truth
        return Right((found.argmax(1) == truth).numpy())

    def compare(self, task: Task, outputs: Outputs, reference: Outputs) -> Comparison:
        """Return how far the scores of each line are from the reference's, as a KL divergence, and where the
        class is the same.
        """
        found, expected = (finite(torch.from_numpy(rows), "an output") for rows in (outputs, reference))
        distance = Distance(Measure.KL, Graded.each(_divergences(found, expected).numpy()))
        if self._numbers(task):
            return Comparison(distance=distance)
        same = Right((found.argmax(1) == expected.argmax(1)).numpy())
        return Comparison(distance=distance, same_first=same)

    def opening(self, lines: int) -> "ClassifierBench":
        return replace(self, samples={name: samples[:lines] for name, samples in self.samples.items()})

    def _numbers(self, task: Task) -> bool:
        columns = self.columns[task.name]
        return bool(columns.stop - columns.start == 1)


def _divergences(found: Tensor, expected: Tensor) -> Tensor:
    """Return KL(expected || found) of each row of scores, float64 [n]."""
    whole = Columns(slice(None))
    ours, theirs = (torch.log_softmax(whole.logits(rows), 1) for rows in (found, expected))
    return (theirs.exp() * (theirs - ours)).sum(1).clamp_min(0)
