"""The paired bootstrap over lines: how much a number varies from one draw of lines to the next.

Efron 1987: B. Efron, Better bootstrap confidence intervals, Journal of the American Statistical Association
82, 171-185. Efron & Tibshirani 1993: An introduction to the bootstrap, Chapman & Hall.
"""

from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from epmq_export.verification.statistics.estimate import Z_BOUND, Z_INTERVAL, Estimate, Interval

Numbers = NDArray[np.float64]
Statistic = Callable[[Numbers], Numbers]
"""A number that is computed from lines: float64 [samples, lines], how often each line is in each sample, in,
and the number of each sample, float64 [samples], out.
"""

RESAMPLES = 2000
SEED = 0
_BLOCK = 1 << 21
"""The most counts that are held at a time."""


def smooth(statistic: Statistic, lines: int) -> Estimate:
    """Return a number that changes smoothly with the lines, such as a mean, with bias-corrected and
    accelerated intervals (BCa; Efron 1987). The acceleration is that of leaving each line out in turn.
    """
    value, drawn = _whole(statistic, lines), _drawn(statistic, lines)
    if np.ptp(drawn) == 0:
        return _exact(value)
    without = np.concatenate([statistic(block) for block in _left_out(lines)]) if lines > 1 else drawn[:1]
    normal = NormalDist()
    below = ((drawn < value).sum() + (drawn <= value).sum()) / (2 * len(drawn))
    # A share of 0 or 1 has no quantile. The last draw decides no more than half of itself.
    bias = normal.inv_cdf(float(np.clip(below, 0.5 / len(drawn), 1 - 0.5 / len(drawn))))
    away = without.mean() - without
    spread = float((away**2).sum())
    acceleration = float((away**3).sum()) / (6 * spread**1.5) if spread > 0 else 0.0

    def ends(z: float) -> Interval:
        shares = [
            100 * normal.cdf(bias + (bias + end) / (1 - acceleration * (bias + end))) for end in (-z, z)
        ]
        low, high = np.percentile(drawn, shares)
        return Interval(float(low), float(high))

    return Estimate(value, ends(Z_INTERVAL), ends(Z_BOUND))


def rough(statistic: Statistic, lines: int) -> Estimate:
    """Return a number that jumps as lines come and go, such as a percentile, with percentile intervals
    (Efron & Tibshirani 1993, chapter 13): leaving a line out says nothing of how such a number varies.
    """
    value, drawn = _whole(statistic, lines), _drawn(statistic, lines)

    def ends(z: float) -> Interval:
        share = 100 * NormalDist().cdf(z)
        low, high = np.percentile(drawn, [100 - share, share])
        return Interval(float(low), float(high))

    return Estimate(value, ends(Z_INTERVAL), ends(Z_BOUND))


def _whole(statistic: Statistic, lines: int) -> float:
    return float(statistic(np.ones((1, lines)))[0])


def _exact(value: float) -> Estimate:
    return Estimate(value, Interval(value, value), Interval(value, value))


def _drawn(statistic: Statistic, lines: int) -> Numbers:
    """Return the number of each of RESAMPLES draws of as many lines with repetition, the same draws each
    time.
    """
    # Tasks often have as many lines as one another, and several numbers each: few draws are kept.
    blocks = _kept(RESAMPLES, lines) if RESAMPLES * lines <= _BLOCK else _draws(RESAMPLES, lines)
    return np.concatenate([statistic(block) for block in blocks])


@lru_cache(maxsize=2)
def _kept(samples: int, lines: int) -> Sequence[Numbers]:
    return list(_draws(samples, lines))


def _draws(samples: int, lines: int) -> Iterator[Numbers]:
    """Yield how often each line is in each of the draws, block by block."""
    generator = np.random.default_rng(SEED)
    while samples:
        size = min(samples, max(1, _BLOCK // lines))
        rows = generator.integers(0, lines, (size, lines)) + lines * np.arange(size)[:, None]
        yield np.bincount(rows.ravel(), minlength=size * lines).reshape(size, lines).astype(np.float64)
        samples -= size


def _left_out(lines: int) -> Iterator[Numbers]:
    """Yield the counts of all lines but one, for each line in turn."""
    size = max(1, _BLOCK // lines)
    for start in range(0, lines, size):
        block = np.ones((min(size, lines - start), lines))
        block[np.arange(len(block)), start + np.arange(len(block))] = 0
        yield block
