"""Spearman's rank correlation of numbers, of all lines or of lines that are drawn."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from epmq_export.verification.statistics.bootstrap import Numbers, Statistic


def rank_correlation(found: Sequence[float] | Numbers, expected: Sequence[float] | Numbers) -> float:
    """Return Spearman's rank correlation, -1..1: Pearson's of the ranks, where equal values have the mean of
    their ranks. It is 0 where all are equal.
    """
    return float(correlation(np.array(found), np.array(expected))(np.ones((1, len(found))))[0])


def correlation(found: Numbers, expected: Numbers) -> Statistic:
    """Return Spearman's rank correlation as a number of how often each line is drawn."""
    places = [np.unique(numbers, return_inverse=True)[1] for numbers in (found, expected)]

    def each(counts: Numbers) -> float:
        ranks = np.stack([_ranks(place, counts) for place in places])
        centred = ranks - (ranks @ counts / counts.sum())[:, None]
        lengths = np.sqrt(centred**2 @ counts)
        if not lengths.all():
            return 0.0
        # The quotient may be above 1 in its last bit.
        return float(np.clip((centred[0] * centred[1]) @ counts / lengths.prod(), -1, 1))

    return lambda samples: np.array([each(counts) for counts in samples])


def _ranks(places: NDArray[np.int64], counts: Numbers) -> Numbers:
    """Return the rank of each line, from 1 on, where each is there as often as `counts` says. `places` are
    the lines' places among the distinct values, and equal values have the mean of their ranks.
    """
    many = np.bincount(places, counts)
    ranks: Numbers = (np.cumsum(many) - (many - 1) / 2)[places]
    return ranks
