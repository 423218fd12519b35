"""Tensors as bytes: plain values, and llama.cpp's blocks of a scale and the codes under it. A permutation of bits both ways."""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray
from torch import Tensor

from epmq_export.errors import InputError
from epmq_export.grids import GRIDS, Grid
from epmq_export.packed import PackedTensor
from formats.gguf_file import TensorInfo, shown

PLAIN = {GGMLQuantizationType.F32: torch.float32, GGMLQuantizationType.F16: torch.float16}


def encode(value: PackedTensor | Tensor) -> NDArray[Any]:
    """The bytes of a tensor in the file. A group on a grid becomes a block: its scale, then its codes."""
    if not isinstance(value, PackedTensor):
        return (value if value.dtype == torch.float16 and value.ndim > 1 else value.float()).contiguous().numpy()
    scales = value.stored["scales"].reshape(-1, 1).contiguous().view(torch.uint8)
    codes = value.codes.reshape(-1, value.grid.group)
    if value.grid.bits > 4:
        return torch.cat((scales, codes.view(torch.uint8)), 1).numpy()
    unsigned = (codes - value.grid.lowest).to(torch.uint8)
    low, high = unsigned.chunk(2, 1)  # byte j holds element j and, above it, element j + group / 2
    return torch.cat((scales, low | (high << 4)), 1).numpy()


def decode(path: Path, info: TensorInfo, raw: NDArray[np.uint8]) -> PackedTensor | Tensor:
    """The inverse of `encode`; InputError where the tensor is of a type that this project does not write."""
    content = torch.from_numpy(np.array(raw))
    if info.type in PLAIN:
        return content.view(PLAIN[info.type]).reshape(info.shape)
    grid = GRIDS.get(info.type.name)
    if grid is None or len(info.shape) != 2:
        raise InputError(f"{path}: tensor {shown(info.name)} is {info.type.name} {list(info.shape)}, expected F32, F16 or a matrix on {' or '.join(GRIDS)}")
    return _blocks(grid, content, info.shape[0])


def _blocks(grid: Grid, content: Tensor, out: int) -> PackedTensor:
    blocks = content.reshape(-1, GGML_QUANT_SIZES[GGMLQuantizationType[grid.name]][1])
    scales = blocks[:, :2].contiguous().view(torch.float16).reshape(out, -1)
    packed = blocks[:, 2:]
    codes = packed.contiguous().view(torch.int8) if grid.bits > 4 else torch.cat((packed & 15, packed >> 4), 1).to(torch.int8) + grid.lowest
    return PackedTensor(grid, codes.reshape(out, -1), {"scales": scales})
