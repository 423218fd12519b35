"""ggml's types as this project writes them, one record each.

A further grid takes one record in `epmq_export/grids/__init__.py` and one here, and nothing else: a type's
number, the values of its blocks and their bytes are those of the package gguf, from where the runtimes have
theirs too.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from gguf import GGMLQuantizationType, LlamaFileType

from epmq_export.grids import Grid
from epmq_export.grids.layout import Storage
from formats.gguf.layout import Bits, Field, Half, Pairs, Shares, Signed


@dataclass(frozen=True)
class GgmlType:
    """What a type's name does not say."""

    file_type: LlamaFileType
    """What `general.file_type` says of a file most of whose matrices are of this type."""

    fields: Sequence[Field] = ()
    """What a block consists of, in its order, as ggml's block_* structures lay it out; nothing for plain
    numbers.
    """


TYPES: Mapping[str, GgmlType] = {
    "F32": GgmlType(LlamaFileType.ALL_F32),
    "F16": GgmlType(LlamaFileType.MOSTLY_F16),
    "Q4_0": GgmlType(LlamaFileType.MOSTLY_Q4_0, (Half("scales"), Bits("codes", 16, 4, 16))),
    "Q4_1": GgmlType(LlamaFileType.MOSTLY_Q4_1, (Half("scales"), Half("mins"), Bits("codes", 16, 4, 16))),
    "IQ4_NL": GgmlType(LlamaFileType.MOSTLY_IQ4_NL, (Half("scales"), Bits("codes", 16, 4, 16))),
    "Q5_0": GgmlType(
        LlamaFileType.MOSTLY_Q5_0, (Half("scales"), Bits("codes", 4, 1, 1, 4), Bits("codes", 16, 4, 16))
    ),
    "Q8_0": GgmlType(LlamaFileType.MOSTLY_Q8_0, (Half("scales"), Signed("codes", 32))),
    "Q2_K": GgmlType(
        LlamaFileType.MOSTLY_Q2_K,
        (Pairs("subscales", "submins", 16), Bits("codes", 64, 2, 32), Half("scales"), Half("mins")),
    ),
    "Q3_K": GgmlType(
        LlamaFileType.MOSTLY_Q3_K_S,
        (
            Bits("codes", 32, 1, 32, 2),
            Bits("codes", 64, 2, 32),
            Bits("subscales", 8, 4, 8),
            Bits("subscales", 4, 2, 4, 4),
            Half("scales"),
        ),
    ),
    "Q4_K": GgmlType(
        LlamaFileType.MOSTLY_Q4_K_S,
        (Half("scales"), Half("mins"), Shares("subscales", "submins"), Bits("codes", 128, 4, 32)),
    ),
    "Q5_K": GgmlType(
        LlamaFileType.MOSTLY_Q5_K_S,
        (
            Half("scales"),
            Half("mins"),
            Shares("subscales", "submins"),
            Bits("codes", 32, 1, 32, 4),
            Bits("codes", 128, 4, 32),
        ),
    ),
    "Q6_K": GgmlType(
        LlamaFileType.MOSTLY_Q6_K,
        (
            Bits("codes", 128, 4, 64),
            Bits("codes", 64, 2, 32, 4),
            Signed("subscales", 16),
            Half("scales"),
        ),
    ),
}
PLAIN: Mapping[GGMLQuantizationType, torch.dtype] = {
    GGMLQuantizationType.F32: torch.float32,
    GGMLQuantizationType.F16: torch.float16,
}
BLOCKS = tuple(name for name, kind in TYPES.items() if kind.fields)
"""The types of tensors on a grid: a grid's `file_type` is one of these."""


def kind_of(storage: Storage, shape: Sequence[int]) -> GGMLQuantizationType:
    """Return the type in the file of a tensor that the packed checkpoint stores so.

    A vector is F32, as llama.cpp wants it; a matrix is F16 where it is packed in half precision.
    """
    if isinstance(storage, Grid):
        return GGMLQuantizationType[storage.file_type]
    half = storage == torch.float16 and len(shape) > 1
    return GGMLQuantizationType.F16 if half else GGMLQuantizationType.F32
