"""The initializers that hold a tensor on a grid: which there are, their types and values, both ways."""

from collections.abc import Mapping, Sequence

import torch
from onnx import TensorProto
from torch import Tensor

from epmq_export.grids import Grid
from epmq_export.grids.zeroed import Zeroed
from epmq_export.tensors.packed import PackedTensor

# The grids that DequantizeLinear can hold bit for bit, each with its initializers, and the types of its codes
# in linears and in rows.
PARTS: Mapping[str, Sequence[str]] = {
    "Q4_0": ("codes", "scales"),
    "Q8_0": ("codes", "scales"),
    "Q4_1Z": ("codes", "scales", "zeros"),
    "Q2_0": ("codes", "scales", "zeros"),
}
_KINDS: Mapping[str, tuple[int, int]] = {
    "Q4_0": (TensorProto.INT4, TensorProto.INT8),
    "Q8_0": (TensorProto.INT8, TensorProto.INT8),
    "Q4_1Z": (TensorProto.UINT4, TensorProto.UINT8),
    "Q2_0": (TensorProto.UINT2, TensorProto.UINT8),
}


def code_kind(grid: Grid, shape: Sequence[int], rows: bool) -> int:
    """Return the type of the codes, and of the zero points, of a tensor [out, in] on a grid.

    Rows take a byte a code, because Gather knows no type of fewer bits, and no runtime fuses it with one.
    """
    kind = _KINDS[grid.name][rows]
    # ONNX Runtime (1.32) computes something else with UINT2 where the outputs are no multiple of 4.
    return TensorProto.UINT4 if kind == TensorProto.UINT2 and shape[0] % 4 else kind


def part_of(held: PackedTensor, part: str) -> Tensor:
    """Return the values of an initializer, laid out as rows. Codes behind which zero points stand count from
    0.
    """
    grid = held.grid
    if part == "zeros":
        if isinstance(grid, Zeroed):
            return grid.zeros(held.stored)
        return torch.full_like(held.stored["scales"], -grid.lowest, dtype=torch.uint8)
    if part != "codes":
        return held.stored[part]
    return (held.codes - grid.lowest).view(torch.uint8) if "zeros" in PARTS[grid.name] else held.codes


def packed_of(grid: Grid, values: Mapping[str, Tensor]) -> PackedTensor:
    """Return the tensor of which these are the values of the initializers, laid out as rows.

    A number that no written file has comes back as NaN, which equals none of a checkpoint's.
    """
    scales, codes = halves(values["scales"]), values["codes"]
    if "zeros" not in values:
        return PackedTensor(grid, codes, {"scales": scales})
    zeros = values["zeros"]
    if isinstance(grid, Zeroed):
        mins = (0.0 - values["scales"] * zeros).half()
        return PackedTensor(grid, codes.view(torch.int8), {"scales": scales, "mins": mins})
    signed = codes.view(torch.int8) + grid.lowest
    return PackedTensor(grid, signed, {"scales": scales.masked_fill(zeros != -grid.lowest, torch.nan)})


def halves(scales: Tensor) -> Tensor:
    """Return stored float32 scales as the float16 that they came from. A scale that is no float16 value
    becomes NaN, which equals no scale.
    """
    half = scales.half()
    return torch.where(half.float() == scales, half, torch.nan)
