"""The shared libraries of the package clip-cpp, by ctypes: the structs and calls below are those of one
version of it.

They are loaded from the package's directory and the package itself is never imported: it changes the working
directory, and brings a downloader with it.
"""

import ctypes
import importlib.util
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from epmq_export.errors import InputError, MissingRuntime

# What the structs below belong to; the same in pyproject.toml.
PACKAGE, VERSION, MODULE = "clip-cpp", "0.5.0", "clip_cpp"
# Number of the type in its ggml, values a block, bytes a block: all that it can decode. It knows no K-quants
# and no IQ4_NL.
TYPES = {"F16": (1, 1, 2), "Q4_0": (2, 32, 18), "Q4_1": (3, 32, 20), "Q8_0": (8, 32, 34)}
# What the libraries are compiled for; another CPU stops at their first call with SIGILL.
_CPU = {"avx2", "fma", "f16c"}
_CPUINFO = Path("/proc/cpuinfo")

UINT32, FLOAT32, BOOL, STRING, ARRAY = 4, 6, 7, 8, 9
"""Types of a GGUF file's values."""

_ToFloat = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_int)


class Init(ctypes.Structure):
    """ggml_init_params."""

    _fields_ = (("size", ctypes.c_size_t), ("buffer", ctypes.c_void_p), ("no_alloc", ctypes.c_bool))


class GgufInit(ctypes.Structure):
    """gguf_init_params."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("context", ctypes.POINTER(ctypes.c_void_p)))


class Tokens(ctypes.Structure):
    """clip_tokens."""

    _fields_ = (("data", ctypes.POINTER(ctypes.c_int32)), ("size", ctypes.c_size_t))


class Image(ctypes.Structure):
    """clip_image_f32, of values that stand as they are seen, red, green and blue together. Later sources end
    it with its size.
    """

    _fields_ = (
        ("width", ctypes.c_int),
        ("height", ctypes.c_int),
        ("data", ctypes.POINTER(ctypes.c_float)),
        ("size", ctypes.c_size_t),
    )


class _Traits(ctypes.Structure):
    _fields_ = (
        ("type_name", ctypes.c_char_p),
        ("block", ctypes.c_int),
        ("block_bytes", ctypes.c_size_t),
        ("quantised", ctypes.c_bool),
        ("to_float", _ToFloat),
        ("others", ctypes.c_void_p * 4),
    )


def installed() -> str:
    """The package's version; MissingRuntime where it is not there, is another one, or cannot run on this
    CPU.
    """
    how = "pip install 'epmq-export[clip]' (wheels: Linux x86-64)"
    try:
        found = version(PACKAGE)
    except PackageNotFoundError:
        raise MissingRuntime(f"clip.cpp is not installed: {how}") from None
    if found != VERSION:
        raise MissingRuntime(f"{PACKAGE} is {found}, expected {VERSION}: {how}")
    if lacking := _CPU - _cpu():
        raise MissingRuntime(
            f"this CPU has no {', '.join(sorted(lacking))}, which {PACKAGE} {VERSION} is compiled for"
        )
    return found


def _cpu() -> set[str]:
    """What this CPU says that it can do; where it does not say, what is needed."""
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return _CPU
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), _CPU)


def _load(name: str, mode: int) -> ctypes.CDLL:
    spec = importlib.util.find_spec(MODULE)
    roots = (spec.submodule_search_locations if spec else None) or []
    place = next((place for root in roots if (place := Path(root) / name).is_file()), None)
    if place is None:
        raise MissingRuntime(
            f"clip.cpp's {name} is not there: the package {PACKAGE} is not installed, or holds none"
        )
    try:
        return ctypes.CDLL(str(place), mode=mode)
    except OSError as error:
        raise MissingRuntime(f"clip.cpp's library cannot be loaded ({error})") from None


@cache
def ggml(mode: int = ctypes.RTLD_LOCAL) -> ctypes.CDLL:
    """Its ggml, by default apart from every other that this process has loaded."""
    library = _load("libggml.so", mode)
    pointer, text, whole, size = ctypes.c_void_p, ctypes.c_char_p, ctypes.c_int, ctypes.c_size_t
    for name, result, arguments in (
        ("ggml_init", pointer, (Init,)),
        ("ggml_free", None, (pointer,)),
        ("ggml_internal_get_type_traits", _Traits, (whole,)),
        ("ggml_get_tensor", pointer, (pointer, text)),
        ("ggml_nbytes", size, (pointer,)),
        ("ggml_nrows", ctypes.c_int64, (pointer,)),
        ("ggml_nelements", ctypes.c_int64, (pointer,)),
        ("gguf_init_from_file", pointer, (text, GgufInit)),
        ("gguf_find_key", whole, (pointer, text)),
        ("gguf_get_kv_type", whole, (pointer, whole)),
        ("gguf_get_arr_type", whole, (pointer, whole)),
        ("gguf_get_arr_n", whole, (pointer, whole)),
        ("gguf_get_arr_str", text, (pointer, whole, whole)),
        ("gguf_get_arr_data", pointer, (pointer, whole)),
        ("gguf_get_val_str", text, (pointer, whole)),
        ("gguf_get_val_u32", ctypes.c_uint32, (pointer, whole)),
        ("gguf_get_n_tensors", whole, (pointer,)),
        ("gguf_get_tensor_name", text, (pointer, whole)),
        ("gguf_get_tensor_offset", size, (pointer, whole)),
        ("gguf_get_data_offset", size, (pointer,)),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    # The first context fills the tables that half precision is decoded and activations are computed by.
    library.ggml_free(library.ggml_init(Init(1 << 12, None, False)))
    for name, (number, block, block_bytes) in TYPES.items():
        traits = library.ggml_internal_get_type_traits(number)
        found = (traits.type_name.lower(), traits.block, traits.block_bytes, traits.quantised)
        expected = (name.lower().encode(), block, block_bytes, name != "F16")
        if found != expected or not traits.to_float:
            raise MissingRuntime(
                f"{PACKAGE}: its ggml's type {name} is {found}, expected {expected}: another version of "
                f"{PACKAGE}"
            )
    return library


def clip() -> ctypes.CDLL:
    """clip.cpp on its ggml, whose names this process then has for all: for a process of its own."""
    ggml(ctypes.RTLD_GLOBAL)
    library = _load("libclip.so", ctypes.RTLD_LOCAL)
    pointer, floats = ctypes.c_void_p, ctypes.c_void_p
    for name, result, arguments in (
        ("clip_model_load", pointer, (ctypes.c_char_p, ctypes.c_int)),
        (
            "clip_text_encode",
            ctypes.c_bool,
            (pointer, ctypes.c_int, ctypes.POINTER(Tokens), floats, ctypes.c_bool),
        ),
        (
            "clip_image_encode",
            ctypes.c_bool,
            (pointer, ctypes.c_int, ctypes.POINTER(Image), floats, ctypes.c_bool),
        ),
    ):
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
    return library


def dequantise(grid: str, raw: NDArray[np.uint8], count: int) -> NDArray[np.float32] | None:
    """float32 [count] of the bytes `raw` on a grid, by its ggml; None for a grid that it does not know.
    InputError where their number does not fit.
    """
    if grid not in TYPES:
        return None
    number, block, block_bytes = TYPES[grid]
    if count < 0 or count % block or raw.size != count // block * block_bytes:
        raise InputError(
            f"{raw.size} bytes of {grid} for {count} values: expected whole blocks of {block} values and "
            f"{block_bytes} bytes"
        )
    source = np.ascontiguousarray(raw, np.uint8)
    values = np.empty(count, np.float32)
    ggml().ggml_internal_get_type_traits(number).to_float(source.ctypes.data, values.ctypes.data, count)
    return values
