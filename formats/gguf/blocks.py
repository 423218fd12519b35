"""Tensors as bytes: plain values, and llama.cpp's blocks of codes and stored numbers. Both ways are a
permutation of bits.
"""

from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from epmq_export.errors import InputError
from epmq_export.grids import GRIDS, Grid
from epmq_export.tensors.gguf_file import TensorInfo, shown
from epmq_export.tensors.packed import PackedTensor
from formats.gguf.layout import Numbers
from formats.gguf.types import BLOCKS, PLAIN, TYPES


def encode(value: PackedTensor | Tensor) -> NDArray[Any]:
    """Return the bytes of a tensor in the file. A tensor on a grid has a row for every group."""
    if not isinstance(value, PackedTensor):
        return (
            (value if value.dtype == torch.float16 and value.ndim > 1 else value.float()).contiguous().numpy()
        )
    grid = value.grid
    codes = value.codes.reshape(-1, grid.group).view(torch.uint8) + _bias(grid)  # The sum is modulo 256.
    numbers = {
        "codes": codes,
        **{part: value.stored[part].reshape(-1, kind.count) for part, kind in grid.parts.items()},
    }
    return torch.cat([field.put(numbers) for field in TYPES[grid.file_type].fields], 1).numpy()


def decode(path: Path, info: TensorInfo, raw: NDArray[np.uint8]) -> PackedTensor | Tensor:
    """Return the tensor that `encode` was given. Raises InputError for a type that this project does not
    write.
    """
    content = torch.from_numpy(np.array(raw))
    if info.type in PLAIN:
        return content.view(PLAIN[info.type]).reshape(info.shape)
    grid = GRIDS.get(info.type.name)
    if grid is None or len(info.shape) != 2:
        raise InputError(
            f"{path}: tensor {shown(info.name)} is {info.type.name} {list(info.shape)}, expected F32, F16 "
            f"or a matrix on {' or '.join(BLOCKS)}"
        )
    fields = TYPES[grid.name].fields
    blocks = content.reshape(-1, sum(field.size for field in fields))
    numbers: Numbers = {"codes": torch.zeros(len(blocks), grid.group, dtype=torch.uint8)}
    numbers |= {
        part: torch.zeros(len(blocks), kind.count, dtype=kind.dtype) for part, kind in grid.parts.items()
    }
    for field, part in zip(fields, torch.split(blocks, [field.size for field in fields], 1), strict=True):
        field.take(part, numbers)
    codes = (numbers.pop("codes") - _bias(grid)).view(torch.int8)
    return PackedTensor(
        grid,
        codes.reshape(info.shape),
        {part: value.reshape(info.shape[0], -1) for part, value in numbers.items()},
    )


def _bias(grid: Grid) -> int:
    """Return the number that is added to codes so that the lowest that the bits could hold is 0. It is not
    always one of the grid's.
    """
    return int(2**grid.bits) - 1 - grid.highest
