"""The answers of one model to the lines of a task, and how they compare with another model's."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol, Self

import numpy as np
from numpy.typing import NDArray

from epmq_export.verification.statistics.bootstrap import Numbers, rough, smooth
from epmq_export.verification.statistics.estimate import Estimate
from epmq_export.verification.statistics.proportions import PairedTable, proportion
from epmq_export.verification.statistics.ranks import correlation


class Lines(Protocol):
    """What a model makes of each line of a task."""

    @property
    def score(self) -> Estimate:
        """Return the score of the model on all lines."""
        ...

    def drop(self, reference: Self) -> Estimate:
        """Return how far the score is below the reference's on the same lines: negative where it is above."""
        ...


@dataclass(frozen=True)
class Right:
    """Lines that a model has right or wrong. The score is the share that it has right."""

    right: NDArray[np.bool_]
    """bool [lines]"""

    @property
    def score(self) -> Estimate:
        return proportion(int(self.right.sum()), len(self.right))

    def drop(self, reference: Self) -> Estimate:
        return self.table(reference).drop

    def table(self, reference: Self) -> PairedTable:
        """Return how often only one of the two is right."""
        return PairedTable.of(reference.right, self.right)


@dataclass(frozen=True)
class Graded:
    """Lines with a number each, or with several: a line of a language model has one for each token. The score
    is the mean of all numbers, and lines are what luck draws.
    """

    values: Numbers
    """float64 [numbers]"""

    lengths: NDArray[np.int64]
    """How many of the numbers are each line's, in their order, int64 [lines]."""

    @classmethod
    def each(cls, values: NDArray[np.floating]) -> Self:
        """Return lines with one number each."""
        return cls(values.astype(np.float64), np.ones(len(values), np.int64))

    @property
    def score(self) -> Estimate:
        ends = np.cumsum(self.lengths)[:-1]
        sums = np.array([part.sum() for part in np.split(self.values, ends)])
        lengths = self.lengths.astype(np.float64)
        return smooth(lambda counts: (counts @ sums) / (counts @ lengths), len(lengths))

    def drop(self, reference: Self) -> Estimate:
        return Graded(reference.values - self.values, self.lengths).score

    def percentile(self, percent: float) -> Estimate:
        """Return the least of the numbers that so many percent of them are not above."""
        order = np.argsort(self.values, kind="stable")
        line = np.repeat(np.arange(len(self.lengths)), self.lengths)[order]
        values = self.values[order]

        def each(counts: Numbers) -> float:
            reached = np.cumsum(counts[line])
            return float(values[np.searchsorted(reached, percent / 100 * reached[-1] * (1 - 1e-12))])

        return rough(lambda counts: np.array([each(row) for row in counts]), len(self.lengths))


@dataclass(frozen=True)
class Ranked:
    """Lines with a number each, of which the order counts. The score is Spearman's rank correlation with the
    right numbers.
    """

    found: Numbers
    """The model's numbers, float64 [lines]."""

    expected: Numbers
    """The right numbers, float64 [lines]."""

    @classmethod
    def of(cls, found: Sequence[float], expected: Sequence[float]) -> Self:
        """Return the lines of numbers."""
        return cls(np.array(found, np.float64), np.array(expected, np.float64))

    @property
    def score(self) -> Estimate:
        return smooth(correlation(self.found, self.expected), len(self.found))

    def drop(self, reference: Self) -> Estimate:
        ours, theirs = (correlation(each.found, each.expected) for each in (self, reference))
        return smooth(lambda counts: theirs(counts) - ours(counts), len(self.found))
