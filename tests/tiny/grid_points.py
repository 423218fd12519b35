"""Points of a grid, and weights off it, for tests that hold for every grid."""

import torch
from torch import Tensor

from epmq_export.grids import Grid
from epmq_export.grids.zeroed import Zeroed
from epmq_export.tensors.packed import PackedTensor


def random_point(grid: Grid, out: int, groups: int, seed: int) -> PackedTensor:
    """Draw any codes and any stored numbers: float16 of both signs, subnormal and zero ones too, and every
    integer.
    """
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(grid.lowest, grid.highest + 1, (out, groups * grid.group), generator=generator).to(
        torch.int8
    )
    stored = {}
    for name, part in grid.parts.items():
        shape = (out, groups * part.count)
        if part.dtype == torch.float16:
            bits = torch.randint(-(2**15), 2**15, shape, generator=generator).to(torch.int16)
            stored[name] = torch.where(bits.view(torch.float16).isfinite(), bits, 0).view(torch.float16)
        else:
            stored[name] = torch.randint(0, 2**part.bits, shape, generator=generator).to(part.dtype)
    if isinstance(grid, Zeroed):
        zeros = torch.randint(0, 16, (out, groups), generator=generator)
        small = stored["scales"].float().clamp(-4000, 4000)
        stored = {**grid.round(small.abs(), -grid.round(small.abs())["scales"].float() * zeros)}
    return PackedTensor(grid, codes, stored)


def random_weights(seed: int, magnitude: float, out: int = 3, width: int = 64) -> Tensor:
    """Draw rows of unlike spread, with one outlier each."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, width, generator=generator) * torch.rand(out, 1, generator=generator)
    weight[:, seed % width] *= 5
    return weight / weight.abs().max() * magnitude
