"""Several tasks together: their mean, and the worst of them.

Zou & Donner 2008: G. Y. Zou, A. Donner, Construction of confidence limits about effect measures: a general
approach, Statistics in Medicine 27, 1693-1702. Holm 1979: S. Holm, A simple sequentially rejective multiple
test procedure, Scandinavian Journal of Statistics 6, 65-70.
"""

import math
from collections.abc import Sequence

from epmq_export.verification.statistics.estimate import Estimate, Interval


def pooled(estimates: Sequence[Estimate]) -> Estimate:
    """Return the mean of independent estimates, which weigh alike.

    The distances from each value to its interval's ends take the place of standard errors: they are added in
    squares, each side for itself (Zou & Donner 2008). Where nothing has changed on any line, a standard error
    would be 0, and an interval's end is not.
    """
    value = sum(each.value for each in estimates) / len(estimates)

    def ends(parts: Sequence[tuple[float, Interval]]) -> Interval:
        low = math.hypot(*(middle - end.low for middle, end in parts))
        high = math.hypot(*(end.high - middle for middle, end in parts))
        return Interval(value - low / len(parts), value + high / len(parts))

    interval = ends([(each.value, each.interval) for each in estimates])
    return Estimate(value, interval, ends([(each.value, each.bounds) for each in estimates]))


def holm(p_values: Sequence[float]) -> list[float]:
    """Return the p-values, corrected for their number (Holm 1979): one of up to 0.05 is then no luck of
    having looked at several, with 95 % confidence for all of them together.
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    found, least = [0.0] * len(p_values), 0.0
    for place, i in enumerate(order):
        least = max(least, min(1.0, (len(p_values) - place) * p_values[i]))
        found[i] = least
    return found
