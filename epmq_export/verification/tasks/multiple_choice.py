"""Multiple choice: each prompt is followed by each label's text, and the answer is the likeliest by the sum
of its tokens' log-probabilities.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from epmq_export.data.task import Task
from epmq_export.models.family import Family, language_of
from epmq_export.models.samples import Passage, Sample
from epmq_export.verification.statistics.lines import Graded, Lines, Right
from epmq_export.verification.tasks.bench import Outputs
from epmq_export.verification.tasks.comparison import Comparison, Distance, Measure
from epmq_export.verification.tasks.likelihood import by_passage, divergence, likelihood, log_softmax


@dataclass(frozen=True)
class Choice:
    """A task of multiple choice."""

    task: Task
    truth: Tensor
    passages: Sequence[Passage]
    """For each sample, one passage for each label."""

    targets: Sequence[list[int]]
    """The tokens that each passage's rows are to predict."""

    leaders: Sequence[int]
    """For each passage the index of the one whose rows are read for it. Where answers to one prompt have one
    token each, the row of the first holds the scores of all.
    """

    @classmethod
    def of(cls, task: Task, truth: Tensor, family: Family, passages: Sequence[Passage]) -> "Choice":
        """Return the task with its targets."""
        language = language_of(family)
        targets = [language.targets(passage) for passage in passages]
        led = leaders(family, passages, targets)
        return cls(task=task, truth=truth, passages=passages, targets=targets, leaders=led)

    def outputs(self, run: Callable[[Sequence[Sample]], Outputs]) -> Outputs:
        """Return the log-likelihoods, float32 [samples, labels]."""
        found = [
            likelihood(rows, ids) for rows, ids in by_passage(run, self.passages, self.targets, self.leaders)
        ]
        return np.array(found, np.float32).reshape(len(self.truth), -1)

    @property
    def measure(self) -> Measure:
        return Measure.ACCURACY

    def lines(self, outputs: Outputs, expert: Outputs) -> Lines:
        """Return which lines are right."""
        return Right(outputs.argmax(1) == self.truth.numpy())

    def compare(self, outputs: Outputs, reference: Outputs) -> Comparison:
        """Compare the probabilities of the labels."""
        divergences = Graded.each(divergence(log_softmax(outputs), log_softmax(reference)))
        same = Right(outputs.argmax(1) == reference.argmax(1))
        return Comparison(distance=Distance(Measure.KL, divergences), same_first=same)

    def opening(self, lines: int) -> "Choice":
        count = lines * (len(self.passages) // len(self.truth))
        return replace(
            self,
            truth=self.truth[:lines],
            passages=self.passages[:count],
            targets=self.targets[:count],
            leaders=self.leaders[:count],
        )


def leaders(family: Family, passages: Sequence[Passage], targets: Sequence[list[int]]) -> list[int]:
    """Return for each passage the index of the one whose rows are read for it."""
    found: list[int] = []
    read: list[int] = []
    for i, (passage, ids) in enumerate(zip(passages, targets, strict=True)):
        (batch,) = family.batches([passage], 1)
        before = batch["input_ids"][0, :-1].tolist() if len(ids) == 1 else []
        shared = bool(before) and before == read and passage.context == passages[found[-1]].context
        found.append(found[-1] if shared else i)
        read = before
    return found
