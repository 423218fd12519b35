"""From W* to codes on a grid."""

import torch
from torch import Tensor

from epmq_export.grids import Grid
from epmq_export.packed import PackedTensor

# Columns between two updates of all columns to the right: wide enough for one matrix product, narrow enough for the cache.
LAZY = 128


def nearest(weight: Tensor, grid: Grid) -> PackedTensor:
    """Every weight of [out, in] to its nearest code, each group's scale by least squared error."""
    return PackedTensor(grid, *grid.quantise(weight.float()))


def gptq(weight: Tensor, factor: Tensor, grid: Grid) -> PackedTensor:
    """GPTQ (arXiv 2210.17323): column by column, each error passed on to the columns not yet rounded.

    `weight` is W* [out, in]; `factor` the lower Cholesky factor of H, float64 [in, in]. A group's scales are fitted when its first
    column is reached, to the weights as they stand then, each column weighted by what an error there costs once the later
    columns have answered it (1 / U_jj^2, U the upper Cholesky factor of H^-1).
    """
    inverse = torch.cholesky_inverse(factor)
    upper = torch.linalg.cholesky(inverse, upper=True)
    cost = upper.diagonal().square().reciprocal().float()
    upper = upper.float()
    left = weight.float().clone()
    out, width = left.shape
    codes = torch.empty(out, width, dtype=torch.int8, device=left.device)
    scales = torch.empty(out, width // grid.group, dtype=torch.float16, device=left.device)
    # Whole groups only, so that a scale is fitted to columns that have had every error passed on.
    step = max(LAZY // grid.group, 1) * grid.group
    for start in range(0, width, step):
        end = min(start + step, width)
        errors = torch.empty(out, end - start, device=left.device)
        for j in range(start, end):
            if j % grid.group == 0:
                group = slice(j, j + grid.group)
                scales[:, j // grid.group] = grid.fit(left[:, group], cost[group])
            scale = scales[:, j // grid.group]
            codes[:, j] = grid.encode(left[:, j], scale)
            error = (left[:, j] - grid.decode(codes[:, j], scale)) / upper[j, j]
            left[:, j + 1 : end] -= error[:, None] * upper[j, j + 1 : end]
            errors[:, j - start] = error
        left[:, end:] -= errors @ upper[start:end, end:]
    return PackedTensor(grid, codes, scales)
