"""The shared library of llama.cpp from the package xllamacpp: its C structures and functions, found, loaded
and checked once.

The structures are those of one version. Only the fields that are set or checked have names, and the defaults
that the library itself gives are checked before anything else is used.
"""

import ctypes
from collections.abc import Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from epmq_export.errors import MissingRuntime
from epmq_export.verification.runtimes.shared_library import Signatures, declare, find

# The version that the structures below belong to. pyproject.toml pins the same one.
PACKAGE, VERSION = "xllamacpp", "2026.10.11549"

_pointer, _number, _text, _flag = ctypes.c_void_p, ctypes.c_int32, ctypes.c_char_p, ctypes.c_bool
_count, _type = ctypes.c_int64, ctypes.c_int


class ModelParameters(ctypes.Structure):
    """llama_model_params."""

    _fields_ = (
        ("devices", _pointer),
        ("overrides", _pointer),
        ("gpu_layers", _number),
        ("split_mode", _number),
        # This is wider than the structure, which is harmless: the library reads from its beginning.
        ("rest", ctypes.c_uint8 * 232),
    )


class ContextParameters(ctypes.Structure):
    """llama_context_params."""

    _fields_ = (
        ("n_ctx", ctypes.c_uint32),
        ("n_batch", ctypes.c_uint32),
        ("n_ubatch", ctypes.c_uint32),
        ("n_seq_max", ctypes.c_uint32),
        ("recurrent", ctypes.c_uint32),
        ("n_outputs_max", ctypes.c_uint32),
        ("unknown", _number),
        ("threads", _number),
        ("threads_batch", _number),
        ("kind", _number),
        ("rope_scaling", _number),
        ("pooling", _number),
        ("attention", _number),
        ("flash_attention", _number),
        ("numbers", ctypes.c_float * 8),
        ("callback", _pointer),
        ("callback_data", _pointer),
        ("type_k", _number),
        ("type_v", _number),
        ("rest", ctypes.c_uint8 * 144),
    )


class Batch(ctypes.Structure):
    """llama_batch."""

    _fields_ = (
        ("n_tokens", _number),
        ("token", ctypes.POINTER(_number)),
        ("embd", _pointer),
        ("pos", ctypes.POINTER(_number)),
        ("n_seq_id", ctypes.POINTER(_number)),
        ("seq_id", ctypes.POINTER(ctypes.POINTER(_number))),
        ("logits", ctypes.POINTER(ctypes.c_int8)),
    )


class TypeTraits(ctypes.Structure):
    """ggml_type_traits."""

    _fields_ = (
        ("type_name", _text),
        ("block", _count),
        ("interleave", _count),
        ("block_bytes", ctypes.c_size_t),
        ("quantised", _flag),
        ("to_float", ctypes.CFUNCTYPE(None, _pointer, _pointer, _count)),
        ("from_float", _pointer),
    )


_SIGNATURES: Signatures = {
    "llama_backend_init": (None, ()),
    "llama_model_default_params": (ModelParameters, ()),
    "llama_context_default_params": (ContextParameters, ()),
    "llama_model_load_from_file": (_pointer, (_text, ModelParameters)),
    "llama_init_from_model": (_pointer, (_pointer, ContextParameters)),
    "llama_model_get_vocab": (_pointer, (_pointer,)),
    "llama_model_has_encoder": (_flag, (_pointer,)),
    "llama_model_decoder_start_token": (_number, (_pointer,)),
    "llama_vocab_n_tokens": (_number, (_pointer,)),
    "llama_tokenize": (_number, (_pointer, _text, _number, _pointer, _number, _flag, _flag)),
    "llama_batch_init": (Batch, (_number, _number, _number)),
    "llama_batch_free": (None, (Batch,)),
    "llama_get_memory": (_pointer, (_pointer,)),
    "llama_memory_seq_rm": (_flag, (_pointer, _number, _number, _number)),
    "llama_encode": (_number, (_pointer, Batch)),
    "llama_decode": (_number, (_pointer, Batch)),
    "llama_get_logits_ith": (ctypes.POINTER(ctypes.c_float), (_pointer, _number)),
    "llama_free": (None, (_pointer,)),
    "llama_model_free": (None, (_pointer,)),
    "ggml_get_type_traits": (ctypes.POINTER(TypeTraits), (_type,)),
    "ggml_quantize_chunk": (
        ctypes.c_size_t,
        (_type, _pointer, _pointer, _count, _count, _count, _pointer),
    ),
}
# The defaults of this version, by the functions that give them. Another version, whose structures have
# another layout, would differ here.
_DEFAULTS: Mapping[str, Mapping[str, int]] = {
    "llama_model_default_params": {"gpu_layers": -1, "split_mode": 1},
    "llama_context_default_params": {
        "n_ctx": 512,
        "n_batch": 2048,
        "n_ubatch": 512,
        "n_seq_max": 1,
        "rope_scaling": -1,
        "pooling": -1,
        "attention": -1,
        "flash_attention": -1,
        "type_k": 1,
        "type_v": 1,
    },
}


def installed() -> str:
    """Return the package's version. Raises MissingRuntime where it is not there, or is another one."""
    how = f"pip install {PACKAGE}=={VERSION} (wheels: Linux x86-64 and ARM, macOS ARM, Windows x86-64)"
    try:
        found = version(PACKAGE)
    except PackageNotFoundError:
        raise MissingRuntime(f"llama.cpp is not installed: {how}") from None
    if found != VERSION:
        raise MissingRuntime(f"{PACKAGE} is {found}, expected {VERSION}: {how}")
    return found


@cache
def load() -> ctypes.CDLL:
    """Return the library. Raises MissingRuntime where it is not there, or is another version's."""
    place = find("xllamacpp", "xllamacpp*.*", (".so", ".pyd"))
    if place is None:
        raise MissingRuntime(
            f"llama.cpp's library is not there: the package {PACKAGE} is not installed, or holds none"
        )
    library = ctypes.CDLL(str(place))
    declare(library, _SIGNATURES)
    _require_defaults(library, place)
    return library


def _require_defaults(library: ctypes.CDLL, place: Path) -> None:
    """Raise MissingRuntime where the defaults that the library gives are not those of this version."""
    for function, expected in _DEFAULTS.items():
        defaults = getattr(library, function)()
        for field, value in expected.items():
            if (found := getattr(defaults, field)) != value:
                raise MissingRuntime(
                    f"{place}: {field} of {function} is {found}, expected {value}: another version of "
                    f"{PACKAGE}"
                )
