"""Proportions of right answers: of one model, and of two that answer the same lines of a task or of several.

Tango 1998: T. Tango, Equivalence test and confidence interval for the difference in proportions for the
paired-sample design, Statistics in Medicine 17, 891-908. Wilson 1927: E. B. Wilson, Probable inference, the
law of succession, and statistical inference, Journal of the American Statistical Association 22, 209-212.
Nam 2006: J. Nam, Non-inferiority of new procedure to standard procedure in stratified matched-pair design,
Biometrical Journal 48, 966-977.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Self

import numpy as np
from numpy.typing import NDArray

from epmq_export.verification.statistics.estimate import Z_BOUND, Z_INTERVAL, Estimate, Interval

_HALVINGS = 60
"""The steps of a bisection of [-1, 1]. After them its ends are one number in float64, or nearly."""


def proportion(right: int, lines: int) -> Estimate:
    """Return the share of right answers with Wilson's score interval (1927)."""
    share = right / lines

    def wilson(z: float) -> Interval:
        weight = z * z / lines
        middle = (share + weight / 2) / (1 + weight)
        reach = math.sqrt(share * (1 - share) * weight + weight * weight / 4) / (1 + weight)
        # The ends at 0 and 1 are exact, whatever the rounding.
        return Interval(middle - reach if right else 0.0, middle + reach if right < lines else 1.0)

    return Estimate(share, wilson(Z_INTERVAL), wilson(Z_BOUND))


@dataclass(frozen=True)
class PairedTable:
    """How often two models are right on the same lines."""

    lines: int
    """The number of lines, n."""

    only_reference: int
    """The lines that only the reference has right, b."""

    only_file: int
    """The lines that only the file has right, c."""

    @classmethod
    def of(cls, reference: NDArray[np.bool_], file: NDArray[np.bool_]) -> Self:
        """Return the table of two models from whether each has each line right, bool [lines]."""
        return cls(len(reference), int((reference & ~file).sum()), int((file & ~reference).sum()))

    @property
    def flips(self) -> float:
        """Return the share of lines that one of the two has right and the other wrong, (b + c) / n."""
        return (self.only_reference + self.only_file) / self.lines

    @property
    def value(self) -> float:
        """Return how far the file's accuracy is below the reference's, (b - c) / n."""
        return (self.only_reference - self.only_file) / self.lines

    @property
    def drop(self) -> Estimate:
        """Return the drop with Tango's score interval (1998)."""
        return Drop([self]).estimate

    def variance(self, drop: float) -> float:
        """Return the variance of the measured drop where `drop` is the true one (Tango 1998, section 3).

        The share of lines that only the file has right is then the likeliest one: the larger root of
        a2 q^2 + a1 q + a0.
        """
        n, b, c = self.lines, self.only_reference, self.only_file
        a2, a1, a0 = 2 * n, (2 * n - b + c) * drop - b - c, -c * drop * (1 - drop)
        only_file = (math.sqrt(max(a1 * a1 - 4 * a2 * a0, 0.0)) - a1) / (2 * a2)
        return (2 * only_file + drop * (1 - drop)) / n

    @property
    def mcnemar(self) -> float:
        """Return the exact two-sided p of McNemar's test that both are equally often right: that of as uneven
        a split of the flips by fair coins (Q. McNemar 1947, Psychometrika 12, 153-157).
        """
        flips, fewer = self.only_reference + self.only_file, min(self.only_reference, self.only_file)
        steps = np.arange(1, fewer + 1)
        # log C(flips, k) - flips log 2 for k up to `fewer`: no binomial coefficient leaves float64 this way.
        logs = np.concatenate([[0.0], np.cumsum(np.log((flips - steps + 1) / steps))]) - flips * math.log(2)
        return min(1.0, 2 * float(np.exp(logs).sum()))


@dataclass(frozen=True)
class Drop:
    """How far a file's accuracy is below the reference's, on average over tasks that weigh alike."""

    tables: Sequence[PairedTable]
    """The table of each task."""

    @property
    def estimate(self) -> Estimate:
        """Return the drop with the score interval. Of one task it is Tango's."""
        value = sum(table.value for table in self.tables) / len(self.tables)
        interval = Interval(self._drop_at(Z_INTERVAL), self._drop_at(-Z_INTERVAL))
        return Estimate(value, interval, Interval(self._drop_at(Z_BOUND), self._drop_at(-Z_BOUND)))

    def score(self, drop: float) -> float:
        """Return the score statistic for the hypothesis of a drop: a standard normal number where it is true,
        large where the drop is larger, infinite where such a drop is impossible.

        The standard errors of the tasks, as they are under the hypothesis, are added in squares (Nam 2006).
        """
        above = sum(table.value - drop for table in self.tables) / len(self.tables)
        if (error := self.standard_error(drop)) > 0:
            return above / error
        return math.copysign(math.inf, above) if above else 0.0

    def standard_error(self, drop: float) -> float:
        """Return the standard error of the measured drop where `drop` is the true one of every task."""
        return math.sqrt(max(sum(table.variance(drop) for table in self.tables), 0.0)) / len(self.tables)

    def p_beyond(self, margin: float) -> float:
        """Return the one-sided p of the drop being `margin` or less: small where it is surely larger."""
        return 1 - NormalDist().cdf(self.score(margin))

    def _drop_at(self, z: float) -> float:
        """Return the drop whose score is z, by bisection: the score falls as the drop grows."""
        low, high = -1.0, 1.0
        for _ in range(_HALVINGS):
            middle = (low + high) / 2
            low, high = (middle, high) if self.score(middle) > z else (low, middle)
        return (low + high) / 2
