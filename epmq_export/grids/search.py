"""The search for the steps of a few weights: each candidate step gives codes, these codes give the best step
by least squares, and the step of least squared error is kept.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from epmq_export.grids.grid import Grid, inverse

Snap = Callable[[Tensor], Tensor]
"""A function from any steps or offsets, float32 [rows], to the nearest ones that can be stored or that lie
within bounds.
"""

# The parts of a group's range that a candidate cuts off below and above, for finer steps in between.
_CUTS = (0.0, 0.03, 0.07, 0.12, 0.18)
# Pairs of such parts. A negative part makes the range longer, so that its end lies between two levels.
BOTH_ENDS = [(low, high) for low in _CUTS for high in _CUTS if low + high < 0.26] + [
    (-0.04, -0.04),
    (-0.04, 0.0),
    (0.0, -0.04),
]


def fit_scale(
    grid: Grid, weight: Tensor, importance: Tensor | None, reaches: Sequence[float], snap: Snap
) -> Tensor:
    """Return the step, float32 [rows], of least squared error for weights [rows, inputs].

    `importance`, [inputs] or [rows, inputs], weighs the errors. `reaches` are the candidates: the levels, in
    steps of one, at which a row's largest weight may stand. A row of zeros gets step 0.
    """
    # Transposed, so that sums over the inputs are additions of whole columns.
    weight = weight.T.contiguous()
    if importance is not None and importance.ndim == 2:
        importance = importance.T

    def total(values: Tensor) -> Tensor:
        """Return the weighted sums over the inputs, [rows]. The values are overwritten."""
        if importance is None:
            return values.sum(0)
        return importance @ values if importance.ndim == 1 else values.mul_(importance).sum(0)

    largest = weight.abs().amax(0)
    best = torch.zeros_like(largest)
    least = torch.full_like(largest, torch.inf)
    # Everything is computed in place, so that the weights stay in the processor's cache for all candidates.
    level, product = torch.empty_like(weight), torch.empty_like(weight)
    for reach in reaches:
        torch.mul(weight, inverse(snap(largest / reach)), out=product)
        grid.nearest_level(product, level)
        along = total(torch.mul(weight, level, out=product))
        step = snap(along * inverse(total(torch.mul(level, level, out=product))))
        error = total(torch.mul(level, step, out=product).sub_(weight).square_())
        better = error < least
        best = torch.where(better, step, best)
        least = torch.where(better, error, least)
    return best


def fit_affine(
    grid: Grid, weight: Tensor, importance: Tensor | None, snap_step: Snap, snap_offset: Snap
) -> tuple[Tensor, Tensor]:
    """Return the step and the offset, each float32 [rows], of least squared error for weights [rows, inputs].

    `importance`, [inputs] or [rows, inputs], weighs the errors. The candidates are the ranges of `BOTH_ENDS`.
    """
    importance = torch.ones_like(weight) if importance is None else importance.expand_as(weight)
    lowest = snap_offset(weight.amin(1))
    # Weights are measured from the lowest one, because sums over large weights would lose small differences.
    above = weight - lowest[:, None]
    span = above.amax(1)
    weights = importance.sum(1)
    weighted = above * importance
    total = weighted.sum(1)
    best_step, best_offset = torch.zeros_like(span), torch.zeros_like(span)
    least = torch.full_like(span, torch.inf)
    level, product = torch.empty_like(weight), torch.empty_like(weight)
    for low, high in BOTH_ENDS:
        rough = span * ((1 - low - high) / (grid.levels[-1] - grid.levels[0]))
        torch.sub(above, (span * low)[:, None], out=level).mul_(inverse(rough)[:, None])
        grid.nearest_level_(level)
        along = torch.mul(weighted, level, out=product).sum(1)
        once = torch.mul(importance, level, out=product).sum(1)
        twice = product.mul_(level).sum(1)
        step = (along - total * once / weights) * inverse(twice - once.square() / weights)
        offset = snap_offset(lowest + (total - step * once) / weights)
        shift = offset - lowest
        step = snap_step((along - shift * once) * inverse(twice))
        error = level.mul_(step[:, None]).add_(shift[:, None]).sub_(above).square_().mul_(importance).sum(1)
        better = error < least
        best_step, best_offset = (
            torch.where(better, step, best_step),
            torch.where(better, offset, best_offset),
        )
        least = torch.where(better, error, least)
    return best_step, best_offset


def to_half(numbers: Tensor) -> Tensor:
    """Return float32 numbers rounded to those that float16 holds."""
    return numbers.half().float()
