"""ggml's types of numbers in blocks, as its libraries decode them. Any library with a ggml in it is compared
with this project's table of types before it decodes anything.
"""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from epmq_export.errors import InputError, MissingRuntime
from epmq_export.tensors.ggml_types import GGML_TYPES


def require_same(
    traits: Any,  # noqa: ANN401 - a structure of ctypes
    name: str,
    library: str,
    package: str,
) -> None:
    """Raise MissingRuntime unless a library's own record of a type, ggml_type_traits, is as `GGML_TYPES`
    describes the type.
    """
    _, _, values, size = GGML_TYPES[name]
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
    _, _, values, size = GGML_TYPES[name]
    if count < 0 or count % values or raw.size != count // values * size:
        raise InputError(
            f"{raw.size} bytes of {name} for {count} values: expected whole blocks of {values} values and "
            f"{size} bytes"
        )
    source = np.ascontiguousarray(raw, np.uint8)
    found = np.empty(count, np.float32)
    traits.to_float(source.ctypes.data, found.ctypes.data, count)
    return found
