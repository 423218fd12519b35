"""The shared libraries of the package clip-cpp, called through ctypes. The structs and calls below are those
of one version of it.

They are loaded from the package's directory, and the package itself is never imported: it changes the working
directory, and brings a downloader with it.
"""

import ctypes
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import numpy as np
from gguf import GGUFValueType
from numpy.typing import NDArray

from epmq_export.errors import InputError, MissingRuntime
from epmq_export.tensors.ggml_types import GGML_TYPES
from epmq_export.verification.runtimes import block_types
from epmq_export.verification.runtimes.clip_cpp.package import MODULE as MODULE
from epmq_export.verification.runtimes.clip_cpp.package import PACKAGE as PACKAGE
from epmq_export.verification.runtimes.clip_cpp.package import VERSION as VERSION
from epmq_export.verification.runtimes.shared_library import Signatures, declare, find

# All types that its ggml can decode and that have the same numbers in today's ggml. It knows no K-quants and
# no IQ4_NL.
TYPES = ("F16", "Q4_0", "Q4_1", "Q8_0")
# The features of a CPU that the libraries need. Without them a CPU stops at the first call with SIGILL.
_CPU = {"avx2", "fma", "f16c"}
_CPUINFO = Path("/proc/cpuinfo")

UINT32, FLOAT32, STRING, ARRAY = (
    int(kind)
    for kind in (GGUFValueType.UINT32, GGUFValueType.FLOAT32, GGUFValueType.STRING, GGUFValueType.ARRAY)
)
"""The types of a GGUF file's values, as its ggml gives them."""

_pointer, _text, _whole, _flag, _size = (
    ctypes.c_void_p,
    ctypes.c_char_p,
    ctypes.c_int,
    ctypes.c_bool,
    ctypes.c_size_t,
)


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


class TypeTraits(ctypes.Structure):
    """ggml_type_traits_t."""

    _fields_ = (
        ("type_name", _text),
        ("block", _whole),
        ("block_bytes", _size),
        ("quantised", _flag),
        ("to_float", ctypes.CFUNCTYPE(None, _pointer, _pointer, _whole)),
        ("others", _pointer * 4),
    )


_GGML: Signatures = {
    "ggml_init": (_pointer, (Init,)),
    "ggml_free": (None, (_pointer,)),
    "ggml_internal_get_type_traits": (TypeTraits, (_whole,)),
    "ggml_get_tensor": (_pointer, (_pointer, _text)),
    "ggml_nbytes": (_size, (_pointer,)),
    "ggml_nrows": (ctypes.c_int64, (_pointer,)),
    "ggml_nelements": (ctypes.c_int64, (_pointer,)),
    "gguf_init_from_file": (_pointer, (_text, GgufInit)),
    "gguf_find_key": (_whole, (_pointer, _text)),
    "gguf_get_kv_type": (_whole, (_pointer, _whole)),
    "gguf_get_arr_type": (_whole, (_pointer, _whole)),
    "gguf_get_arr_n": (_whole, (_pointer, _whole)),
    "gguf_get_arr_str": (_text, (_pointer, _whole, _whole)),
    "gguf_get_arr_data": (_pointer, (_pointer, _whole)),
    "gguf_get_val_str": (_text, (_pointer, _whole)),
    "gguf_get_val_u32": (ctypes.c_uint32, (_pointer, _whole)),
    "gguf_get_n_tensors": (_whole, (_pointer,)),
    "gguf_get_tensor_name": (_text, (_pointer, _whole)),
    "gguf_get_tensor_offset": (_size, (_pointer, _whole)),
    "gguf_get_data_offset": (_size, (_pointer,)),
}
_CLIP: Signatures = {
    "clip_model_load": (_pointer, (_text, _whole)),
    "clip_text_encode": (_flag, (_pointer, _whole, ctypes.POINTER(Tokens), _pointer, _flag)),
    "clip_image_encode": (_flag, (_pointer, _whole, ctypes.POINTER(Image), _pointer, _flag)),
}


def installed() -> str:
    """Return the package's version.

    Raises MissingRuntime where it is not there, is another one, or cannot run on this CPU.
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
    """Return the features that this CPU says that it has, or the ones that are needed where it says
    nothing.
    """
    try:
        lines = _CPUINFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return _CPU
    return next((set(line.partition(":")[2].split()) for line in lines if line.startswith("flags")), _CPU)


@cache
def ggml(mode: int = ctypes.RTLD_LOCAL) -> ctypes.CDLL:
    """Return its ggml, which is by default kept apart from every other that this process has loaded."""
    library = _load("libggml.so", mode, _GGML)
    # Making the first context fills the tables that decode half precision and compute activations.
    library.ggml_free(library.ggml_init(Init(1 << 12, None, False)))
    for name in TYPES:
        block_types.require_same(_traits(library, name), name, "clip.cpp's library", PACKAGE)
    return library


def clip() -> ctypes.CDLL:
    """Return clip.cpp on its ggml. This process then has the names of that ggml for all libraries, so it must
    be a process of its own.
    """
    ggml(ctypes.RTLD_GLOBAL)
    return _load("libclip.so", ctypes.RTLD_LOCAL, _CLIP)


def dequantise(grid: str, raw: NDArray[np.uint8], count: int) -> NDArray[np.float32]:
    """Return the values of the bytes `raw` on a grid, float32 [count], as its ggml decodes them.

    Raises InputError where it knows no such type, or the number of bytes does not fit.
    """
    if grid not in TYPES:
        raise InputError(f"clip.cpp's own dequantiser knows no grid {grid}, expected {' or '.join(TYPES)}")
    return block_types.dequantise(_traits(ggml(), grid), grid, raw, count)


def _load(name: str, mode: int, signatures: Signatures) -> ctypes.CDLL:
    place = find(MODULE, name, (".so",))
    if place is None:
        raise MissingRuntime(
            f"clip.cpp's {name} is not there: the package {PACKAGE} is not installed, or holds none"
        )
    try:
        library = ctypes.CDLL(str(place), mode=mode)
    except OSError as error:
        raise MissingRuntime(f"clip.cpp's library cannot be loaded ({error})") from None
    declare(library, signatures)
    return library


def _traits(library: ctypes.CDLL, name: str) -> TypeTraits:
    traits: TypeTraits = library.ggml_internal_get_type_traits(GGML_TYPES[name].number)
    return traits
