"""A number that was measured on some lines, with how far luck may have moved it."""

from dataclasses import dataclass
from statistics import NormalDist
from typing import NamedTuple

Z_INTERVAL = NormalDist().inv_cdf(0.975)
"""The normal quantile of a two-sided interval of 95 %."""

Z_BOUND = NormalDist().inv_cdf(0.95)
"""The normal quantile of a one-sided bound of 95 %."""


class Interval(NamedTuple):
    """The numbers between two ends."""

    low: float
    """The lower end."""

    high: float
    """The upper end."""


@dataclass(frozen=True)
class Estimate:
    """A number that was measured on some lines, with an interval and bounds that it may truly lie in."""

    value: float
    """The number as measured."""

    interval: Interval
    """The two-sided interval of 95 %."""

    bounds: Interval
    """The lower and the upper one-sided bound, of 95 % each. Together they are an interval of 90 %."""

    def as_dict(self) -> dict[str, float]:
        """Return it as report.json has it."""
        return {
            "value": self.value,
            "low": self.interval.low,
            "high": self.interval.high,
            "lower": self.bounds.low,
            "upper": self.bounds.high,
        }
