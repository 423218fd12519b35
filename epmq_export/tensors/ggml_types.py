"""ggml's types of numbers: those of the package gguf, and those that it does not have yet.

Files are written and read by this table, and llama.cpp's library is compared with it before it decodes
anything.
"""

from collections.abc import Mapping
from typing import NamedTuple

from gguf import GGML_QUANT_SIZES, GGMLQuantizationType


class GgmlType(NamedTuple):
    """A type of numbers, in blocks that have the same number of values each."""

    name: str

    number: int
    """The number that ggml has for the type."""

    values: int
    """The values of a block."""

    size: int
    """The bytes of a block."""


GGML_TYPES: Mapping[str, GgmlType] = {
    **{kind.name: GgmlType(kind.name, int(kind), *GGML_QUANT_SIZES[kind]) for kind in GGMLQuantizationType},
    # llama.cpp has it since July 2026, gguf 0.19.0 does not.
    "Q2_0": GgmlType("Q2_0", 42, 64, 18),
}
"""The types by name."""

BY_NUMBER: Mapping[int, GgmlType] = {kind.number: kind for kind in GGML_TYPES.values()}

F32, F16 = GGML_TYPES["F32"], GGML_TYPES["F16"]
