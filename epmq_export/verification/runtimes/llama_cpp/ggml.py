"""ggml's own dequantisers and quantisers, as llama.cpp's library has them."""

from functools import cache

import numpy as np
from numpy.typing import NDArray

from epmq_export.errors import InputError
from epmq_export.tensors.ggml_types import GGML_TYPES
from epmq_export.verification.runtimes import block_types
from epmq_export.verification.runtimes.llama_cpp.library import PACKAGE, TypeTraits, load


def dequantise(grid: str, raw: NDArray[np.uint8], count: int) -> NDArray[np.float32]:
    """Return the values of the bytes `raw` on a grid, float32 [count], as ggml decodes them.

    Raises InputError where ggml has no such type, or the number of bytes does not fit.
    """
    return block_types.dequantise(_traits(grid), grid, raw, count)


def quantise(
    grid: str, weight: NDArray[np.float32], importance: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    """Return the bytes of a weight [out, in] on a grid, uint8 [out, bytes a row], as ggml itself quantises it
    (`ggml_quantize_chunk`).

    `importance`, [in], is the row of an importance matrix for this weight: how much an error in each input's
    column counts. Raises InputError where a row is no whole number of blocks, or a number is not finite,
    because ggml would abort the process.
    """
    _traits(grid)
    _, number, block, block_bytes = GGML_TYPES[grid]
    out, width = weight.shape
    if width % block:
        raise InputError(f"rows of {width} weights for {grid}: expected whole blocks of {block}")
    if importance is not None and (importance.shape != (width,) or not np.isfinite(importance).all()):
        raise InputError(
            f"an importance of shape {list(importance.shape)} for rows of {width} weights: expected one "
            "finite number a weight of a row"
        )
    if not np.isfinite(weight).all():
        raise InputError(f"a weight is not finite, so ggml has no {grid} for it")
    source = np.ascontiguousarray(weight, np.float32)
    weights = None if importance is None else np.ascontiguousarray(importance, np.float32)
    raw = np.empty((out, width // block * block_bytes), np.uint8)
    load().ggml_quantize_chunk(
        number,
        source.ctypes.data,
        raw.ctypes.data,
        0,
        out,
        width,
        None if weights is None else weights.ctypes.data,
    )
    return raw


@cache
def _traits(grid: str) -> TypeTraits:
    """Return the library's record of a type, checked.

    Raises InputError where ggml has none of that name, or cannot decode it.
    """
    unknown = f"llama.cpp's own dequantiser knows no grid {grid}"
    try:
        number = GGML_TYPES[grid].number
    except KeyError:
        raise InputError(unknown) from None
    traits: TypeTraits = load().ggml_get_type_traits(number).contents
    block_types.require_same(traits, grid, "llama.cpp's library", PACKAGE)
    if not traits.to_float:
        raise InputError(unknown)
    return traits
