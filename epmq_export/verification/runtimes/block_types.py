"""ggml's types of numbers in blocks, as the package gguf describes them. Any library with a ggml in it is
compared with that before it decodes anything.
"""

from typing import Any, NamedTuple

import numpy as np
from gguf import GGML_QUANT_SIZES, GGMLQuantizationType
from numpy.typing import NDArray

from epmq_export.errors import InputError, MissingRuntime


class BlockType(NamedTuple):
    """A type of numbers in blocks."""

    number: int
    """The number that ggml has for the type."""

    values: int
    """The values of a block."""

    size: int
    """The bytes of a block."""


def block_type(name: str) -> BlockType:
    """Return the type as gguf describes it. Raises KeyError where it has none of that name."""
    kind = GGMLQuantizationType[name]
    return BlockType(int(kind), *GGML_QUANT_SIZES[kind])


def require_same(
    traits: Any,  # noqa: ANN401 - a structure of ctypes
    name: str,
    library: str,
    package: str,
) -> None:
    """Raise MissingRuntime unless a library's own record of a type, ggml_type_traits, is as gguf describes
    the type.
    """
    _, values, size = block_type(name)
    found = (traits.type_name.lower(), traits.block, traits.block_bytes, traits.quantised)
    expected = (name.lower().encode(), values, size, values > 1)
    if found != expected:
        raise MissingRuntime(
            f"{library}: ggml's type {name} is {found}, expected {expected}: another version of {package}"
        )


def dequantise(
    traits: Any,  # noqa: ANN401 - a structure of ctypes
    name: str,
    raw: NDArray[np.uint8],
    count: int,
) -> NDArray[np.float32]:
    """Return the values of the bytes `raw`, float32 [count], as the library of `traits` decodes them.

    Raises InputError where the bytes are not that many whole blocks.
    """
    _, values, size = block_type(name)
    if count < 0 or count % values or raw.size != count // values * size:
        raise InputError(
            f"{raw.size} bytes of {name} for {count} values: expected whole blocks of {values} values and "
            f"{size} bytes"
        )
    source = np.ascontiguousarray(raw, np.uint8)
    found = np.empty(count, np.float32)
    traits.to_float(source.ctypes.data, found.ctypes.data, count)
    return found
