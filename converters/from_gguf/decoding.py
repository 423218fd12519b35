"""The values of a GGUF file's tensors: plain numbers as they are, blocks as the package gguf decodes them,
and Q2_0, which it lacks.
"""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from gguf import GGMLQuantizationType
from gguf.quants import dequantize
from numpy.typing import NDArray
from torch import Tensor

from epmq_export.errors import InputError
from epmq_export.tensors.ggml_types import GGML_TYPES, GgmlType

PLAIN: Mapping[GgmlType, torch.dtype] = {
    GGML_TYPES["F32"]: torch.float32,
    GGML_TYPES["F16"]: torch.float16,
    GGML_TYPES["BF16"]: torch.bfloat16,
}


def require_decodable(path: Path, kind: GgmlType) -> None:
    """Raise InputError for a type that there is no decoder for, tried on a block of zeros: the package gguf
    says so by NotImplementedError.
    """
    try:
        decoded(np.zeros(kind.size, np.uint8), kind, (1, kind.values))
    except NotImplementedError:
        raise InputError(f"{path}: has tensors of type {kind.name}, which gguf-py cannot decode") from None


def decoded(raw: NDArray[np.uint8], kind: GgmlType, shape: tuple[int, ...]) -> Tensor:
    """Return the tensor of these bytes: of its own dtype where it is plain, else float32."""
    if kind in PLAIN:
        return torch.from_numpy(np.array(raw)).view(PLAIN[kind]).reshape(shape)
    blocks = raw.reshape(-1, kind.size)
    two_bits = kind.name == "Q2_0"
    values = _two_bits(blocks) if two_bits else dequantize(blocks, GGMLQuantizationType(kind.number))
    return torch.from_numpy(np.ascontiguousarray(values, np.float32)).reshape(shape)


def _two_bits(blocks: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Return the values of blocks of Q2_0: (q - 1) d, with the float16 d first, and four q a byte."""
    codes = (blocks[:, 2:, None] >> np.arange(0, 8, 2, dtype=np.uint8)) & 3
    levels = codes.reshape(len(blocks), -1).astype(np.float32) - 1
    return np.ascontiguousarray(blocks[:, :2]).view(np.float16).astype(np.float32) * levels
