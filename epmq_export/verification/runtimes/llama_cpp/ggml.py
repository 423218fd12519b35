"""ggml's own dequantisers and quantisers, by ctypes. The struct below is that of one version of the library,
and is checked when it is loaded.
"""

import ctypes
import importlib.util
from functools import cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from epmq_export.errors import InputError, MissingRuntime

# Number of the type in ggml, values a block, bytes a block.
_TYPES = {
    "F16": (1, 1, 2),
    "Q4_0": (2, 32, 18),
    "Q4_1": (3, 32, 20),
    "Q5_0": (6, 32, 22),
    "Q8_0": (8, 32, 34),
    "Q2_K": (10, 256, 84),
    "Q3_K": (11, 256, 110),
    "Q4_K": (12, 256, 144),
    "Q5_K": (13, 256, 176),
    "Q6_K": (14, 256, 210),
    "IQ4_NL": (20, 32, 18),
}
_ToFloat = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int64)


class _Traits(ctypes.Structure):
    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("block", ctypes.c_int64),
        ("interleave", ctypes.c_int64),
        ("block_bytes", ctypes.c_size_t),
        ("quantised", ctypes.c_bool),
        ("to_float", _ToFloat),
        ("from_float", ctypes.c_void_p),
    )


@cache
def _library() -> ctypes.CDLL:
    spec = importlib.util.find_spec("xllamacpp")
    roots = (spec.submodule_search_locations if spec else None) or []
    places = [
        place
        for root in roots
        for place in Path(root).glob("xllamacpp*.*")
        if place.suffix in (".so", ".pyd")
    ]
    if not places:
        raise MissingRuntime(
            "llama.cpp's library is not there: the package xllamacpp is not installed, or holds none"
        )
    library = ctypes.CDLL(str(places[0]))
    library.ggml_get_type_traits.restype = ctypes.POINTER(_Traits)
    library.ggml_quantize_chunk.restype = ctypes.c_size_t
    pointer, count = ctypes.c_void_p, ctypes.c_int64
    library.ggml_quantize_chunk.argtypes = (ctypes.c_int, pointer, pointer, count, count, count, pointer)
    for name, (number, block, block_bytes) in _TYPES.items():
        traits = library.ggml_get_type_traits(number).contents
        found = (traits.type_name.lower(), traits.block, traits.block_bytes, traits.quantised)
        expected = (name.lower().encode(), block, block_bytes, name != "F16")
        if found != expected or not traits.to_float:
            raise MissingRuntime(
                f"{places[0]}: ggml's type {name} is {found}, expected {expected}: another version of "
                "xllamacpp"
            )
    return library


def dequantise(grid: str, raw: NDArray[np.uint8], count: int) -> NDArray[np.float32] | None:
    """float32 [count] of the bytes `raw` on a grid, by ggml; None for a grid that is not known here.
    InputError where their number does not fit.
    """
    if grid not in _TYPES:
        return None
    number, block, block_bytes = _TYPES[grid]
    if count < 0 or count % block or raw.size != count // block * block_bytes:
        raise InputError(
            f"{raw.size} bytes of {grid} for {count} values: expected whole blocks of {block} values and "
            f"{block_bytes} bytes"
        )
    source = np.ascontiguousarray(raw, np.uint8)
    values = np.empty(count, np.float32)
    _library().ggml_get_type_traits(number).contents.to_float(source.ctypes.data, values.ctypes.data, count)
    return values


def quantise(
    grid: str, weight: NDArray[np.float32], importance: NDArray[np.float32] | None = None
) -> NDArray[np.uint8]:
    """The bytes [out, bytes a row] of a weight [out, in] on a grid, as ggml itself quantises it
    (`ggml_quantize_chunk`).

    `importance` [in] is an importance matrix's row for this weight: how much an error in each input's column
    counts. InputError where a row is no whole number of blocks, or a number is not finite: ggml would abort
    the process.
    """
    number, block, block_bytes = _TYPES[grid]
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
    _library().ggml_quantize_chunk(
        number,
        source.ctypes.data,
        raw.ctypes.data,
        0,
        out,
        width,
        None if weights is None else weights.ctypes.data,
    )
    return raw
