"""The rounding of W* to codes on a grid."""

import torch
from torch import Tensor

from epmq_export.calibration.one_thread import one_thread
from epmq_export.errors import CalibrationError
from epmq_export.grids import Grid, Stored
from epmq_export.grids.layout import Storage
from epmq_export.tensors.packed import PackedTensor

# The number of columns between two updates of all columns to the right. It is wide enough for one matrix
# product and narrow enough for the processor's cache.
LAZY = 128
# The number of columns between two updates of the rest of their subgroup.
NEAR = 8
# A step for groups whose step is 0, longer than any weight: its level 0 is the nearest. Grids without a level
# 0 take one so short that none of their levels comes to anything.
LONG, SHORT = 2.0**40, 2.0**-100


def store(
    name: str, value: Tensor, storage: Storage, factor: Tensor | None = None, rise: Tensor | None = None
) -> PackedTensor | Tensor:
    """Return the value in the dtype, or on the grid: by GPTQ where there is a factor (the `upper` of `gptq`,
    which fills `rise`), else rounded to the nearest.

    Raises CalibrationError, naming the tensor, where the grid cannot hold it.
    """
    if not isinstance(storage, Grid):
        return value.to(storage)
    try:
        return nearest(value, storage) if factor is None else gptq(value, factor, storage, rise)
    except CalibrationError as error:
        raise CalibrationError(f"{name}: {error}") from None


def nearest(weight: Tensor, grid: Grid) -> PackedTensor:
    """Round every weight of [out, in] to its nearest code. The stored numbers of each group are those of
    least squared error.
    """
    return PackedTensor(grid, *grid.quantise(weight.float()))


def gptq(weight: Tensor, upper: Tensor, grid: Grid, rise: Tensor | None = None) -> PackedTensor:
    """Round with GPTQ (arXiv 2210.17323): column by column, each error passed on to the columns not yet
    rounded.

    `weight` is W*, [out, in]; `upper` is U, float64 [in, in], upper triangular with U^T U = H^-1. The stored
    numbers of a group are fitted when its first column is reached, to the weights as they are then. Each
    column is weighted by the cost of an error there after the later columns have answered it (1 / U_jj^2).
    Where `rise`, float32 [out], is given, it becomes (Q - W*) H (Q - W*)^T of each row: as Q - W* = -E U with
    the errors E as they are passed on, that is the sum of their squares. Raises CalibrationError where an
    error is not finite.
    """
    cost = upper.diagonal().square().reciprocal().float()
    upper = upper.float()
    # Transposed, so that each column is contiguous in memory.
    left = weight.T.to(torch.float32, copy=True, memory_format=torch.contiguous_format)
    width, out = left.shape
    codes = torch.empty(width, out, dtype=torch.int8, device=left.device)
    groups: list[Stored] = []
    squares = torch.zeros(out, device=left.device)
    # A block is of whole groups, so that stored numbers are fitted to columns that have had every error.
    block = max(LAZY // grid.group, 1) * grid.group
    for start in range(0, width, block):
        end = min(start + block, width)
        levels, errors = torch.empty(2, end - start, out, device=left.device)
        with one_thread():
            for first in range(start, end, grid.subgroup):
                last = first + grid.subgroup
                if first % grid.group == 0:
                    group = slice(first, first + grid.group)
                    groups.append(grid.fit(left[group].T, cost[group]))
                index, within = first % grid.group // grid.subgroup, slice(first - start, last - start)
                groups[-1] = grid.refit(groups[-1], index, left[first:last].T, cost[first:last])
                _walk(
                    left[first:last],
                    upper[first:last, first:last],
                    grid,
                    grid.column(groups[-1], index),
                    (levels[within], errors[within]),
                )
                left[last:end].addmm_(upper[first:last, last:end].T, errors[within], alpha=-1)
        if not torch.isfinite(errors).all():
            raise CalibrationError(
                f"its rounding errors are not finite at input channels {start} to {end - 1}"
            )
        codes[start:end] = grid.codes(levels)
        left[end:].addmm_(upper[start:end, end:].T, errors, alpha=-1)
        squares += errors.square_().sum(0)
    if rise is not None:
        rise.copy_(squares)
    return PackedTensor(
        grid,
        codes.T.contiguous(),
        {part: torch.cat([group[part] for group in groups], 1) for part in grid.parts},
    )


def _walk(
    left: Tensor,
    upper: Tensor,
    grid: Grid,
    under: tuple[Tensor, Tensor | None],
    out: tuple[Tensor, Tensor],
) -> None:
    """Round the columns of one subgroup, `left`, [subgroup, out], under its step and offset. Their levels and
    errors go into `out`, each [subgroup, out].

    This is the innermost loop of the calibration. It measures weights in steps, from the offset on, so that a
    column takes few passes over it.
    """
    (step, offset), (levels, errors) = under, out
    # Where the step is 0 every value is the offset, whatever the level, and the error is the whole weight.
    rest = min(grid.levels, key=abs)
    unit = step.masked_fill(step == 0, SHORT if rest else LONG)
    place = (left if offset is None else left - offset) / unit
    diagonal = upper.diagonal()[:, None]
    sweep(place, place, -upper / diagonal, grid, (levels, errors))
    if rest:
        levels.masked_fill_(step == 0, rest)
    errors.mul_(unit).div_(diagonal)


def sweep(place: Tensor, origin: Tensor, coupling: Tensor, grid: Grid, out: tuple[Tensor, Tensor]) -> None:
    """Round the columns of one subgroup in turn: column j takes the levels nearest to its place and moves the
    columns k > j by coupling_jk d_j, where d_j is its origin less these levels.

    All are measured in steps. `place`, which is overwritten, and `origin` are [subgroup, out], and may be the
    same; `coupling` is [subgroup, subgroup]. The levels and d go into `out`.
    """
    levels, moves = out
    for start in range(0, len(place), NEAR):
        near, end = slice(start, start + NEAR), start + NEAR
        # A column moves its next neighbours by itself, and all others together with its neighbours: each
        # movement is a pass over what it moves. Views are made here once, since they cost as much as a pass.
        block = place[near]
        columns = zip(
            block.unbind(),
            origin[near].unbind(),
            levels[near].unbind(),
            moves[near].unbind(),
            coupling[near, near].triu(1)[:, :, None].unbind(),
            strict=True,
        )
        for at, source, level, move, by in columns:
            grid.nearest_level(at, level)
            torch.sub(source, level, out=move)
            block.addcmul_(by, move)
        place[end:].addmm_(coupling[near, end:].T, moves[near])
