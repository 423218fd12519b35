"""The answers of one model to the lines of a task, and how they compare with another model's."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from epmq_export.verification.statistics.bootstrap import Numbers, rough, smooth
from epmq_export.verification.statistics.estimate import Estimate
from epmq_export.verification.statistics.pooled import pooled
from epmq_export.verification.statistics.proportions import Drop, PairedTable, proportion
from epmq_export.verification.statistics.ranks import correlation, rank_correlation


class Lines(Protocol):
    """What a model makes of each line of a task."""

    @property
    def value(self) -> float:
        """Return the score of the model on all lines."""
        ...

    @property
    def estimate(self) -> Estimate:
        """Return the score with its interval."""
        ...

    def drop(self, reference: Self) -> Estimate:
        """Return how far the score is below the reference's on the same lines: negative where it is above."""
        ...

    def as_json(self) -> str | list[float]:
        """Return the lines as report.json has them."""
        ...


@dataclass(frozen=True)
class Right:
    """Lines that a model has right or wrong. The score is the share that it has right."""

    right: NDArray[np.bool_]
    """bool [lines]"""

    @property
    def value(self) -> float:
        return float(self.right.mean())

    @property
    def estimate(self) -> Estimate:
        return proportion(int(self.right.sum()), len(self.right))

    def drop(self, reference: Self) -> Estimate:
        return self.table(reference).drop

    def table(self, reference: Self) -> PairedTable:
        """Return how often only one of the two is right."""
        return PairedTable.of(reference.right, self.right)

    def as_json(self) -> str:
        """Return a digit for each line, 1 where it is right and 0 where it is wrong."""
        return "".join("01"[int(each)] for each in self.right)


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
    def each(cls, values: NDArray[Any]) -> Self:
        """Return lines with one number each."""
        return cls(values.astype(np.float64), np.ones(len(values), np.int64))

    @property
    def value(self) -> float:
        return float(self.values.mean())

    @property
    def estimate(self) -> Estimate:
        sums, lengths = self._sums(), self.lengths.astype(np.float64)
        return smooth(lambda counts: (counts @ sums) / (counts @ lengths), len(lengths))

    def drop(self, reference: Self) -> Estimate:
        return Graded(reference.values - self.values, self.lengths).estimate

    def percentile(self, percent: float) -> Estimate:
        """Return the least of the numbers that so many percent of them are not above."""
        order = np.argsort(self.values, kind="stable")
        line = np.repeat(np.arange(len(self.lengths)), self.lengths)[order]
        values = self.values[order]

        def each(counts: Numbers) -> float:
            reached = np.cumsum(counts[line])
            return float(values[np.searchsorted(reached, percent / 100 * reached[-1] * (1 - 1e-12))])

        return rough(lambda counts: np.array([each(row) for row in counts]), len(self.lengths))

    def as_json(self) -> list[float]:
        """Return the mean of each line, to six digits."""
        return [float(f"{mean:.6g}") for mean in self._sums() / self.lengths]

    def _sums(self) -> Numbers:
        starts = np.cumsum(self.lengths) - self.lengths
        sums: Numbers = np.add.reduceat(self.values, starts)
        return sums


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
    def value(self) -> float:
        return rank_correlation(self.found, self.expected)

    @property
    def estimate(self) -> Estimate:
        return smooth(correlation(self.found, self.expected), len(self.found))

    def drop(self, reference: Self) -> Estimate:
        ours, theirs = (correlation(each.found, each.expected) for each in (self, reference))
        return smooth(lambda counts: theirs(counts) - ours(counts), len(self.found))

    def as_json(self) -> list[float]:
        """Return the model's number for each line."""
        return [float(each) for each in self.found]


def mean_drop(lines: Mapping[str, Lines], reference: Mapping[str, Lines]) -> Estimate:
    """Return how far the mean score of several tasks is below the reference's."""
    pairs = [(lines[name], reference[name]) for name in lines]
    tables = [one.table(other) for one, other in pairs if isinstance(one, Right) and isinstance(other, Right)]
    if len(tables) == len(pairs):
        return Drop(tables).estimate
    return pooled([one.drop(other) for one, other in pairs])
