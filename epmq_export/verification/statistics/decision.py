"""The decision whether a loss is within a margin: a test of non-inferiority by the bounds of the loss.

The number of lines that would decide is that of a one-sided test with power 0.8: (z_0.95 + z_0.8)^2 s^2 / d^2
(S. A. Julious 2004, Sample sizes for clinical trials with normal data, Statistics in Medicine 23, 1921-1986),
with the standard error from the lines that are there in place of s. For paired proportions it is that of
Nam 1997 (Biometrics 53, 1422-1430) where no drop is expected.
"""

import math
from enum import StrEnum
from statistics import NormalDist

from epmq_export.verification.statistics.estimate import Z_BOUND, Estimate

_Z_POWER = NormalDist().inv_cdf(0.8)
ALPHA = 0.05
"""The share of true statements that may be rejected: that of bounds and intervals of 95 %."""

ROUNDING = 1e-9
"""What a loss may be beyond its margin: scores are counts divided by counts, so the last bit of a quotient is
allowed for.
"""


class Outcome(StrEnum):
    """The outcome of a decision."""

    PASS = "pass"
    """The loss is within the margin, with 95 % confidence."""

    UNDECIDED = "undecided"
    """There are too few lines to say."""

    FAIL = "fail"
    """The loss is beyond the margin, with 95 % confidence."""


def decide(loss: Estimate, margin: float) -> Outcome:
    """Return whether a loss is within a margin."""
    if loss.bounds.high <= margin + ROUNDING:
        return Outcome.PASS
    return Outcome.FAIL if loss.bounds.low > margin + ROUNDING else Outcome.UNDECIDED


def p_beyond(loss: Estimate, margin: float) -> float:
    """Return the one-sided p of the true loss being `margin` or less, by the normal distribution with the
    standard error that the lower bound is from: small where the loss is surely larger.
    """
    reach = loss.value - loss.bounds.low
    if reach > 0:
        return 1 - NormalDist().cdf(Z_BOUND * (loss.value - margin) / reach)
    return 0.0 if loss.value > margin else 1.0


def standard_error(loss: Estimate) -> float:
    """Return the standard error that the upper bound of a loss is from."""
    return (loss.bounds.high - loss.value) / Z_BOUND


def resolution(error: float) -> float:
    """Return the distance between the true loss and the margin at which lines with such a standard error
    decide four times in five.
    """
    return (Z_BOUND + _Z_POWER) * error


def times_the_lines(error: float, distance: float) -> float:
    """Return how many times as many lines would decide four times in five, where the true loss is `distance`
    away from the margin. That is more than 0.
    """
    return (resolution(error) / distance) ** 2


def rounded_up(lines: float) -> int:
    """Return a number of lines, rounded up to two digits."""
    unit = 10.0 ** max(math.floor(math.log10(max(lines, 1.0))) - 1, 0)
    return int(math.ceil(lines / unit - 1e-9) * unit)
