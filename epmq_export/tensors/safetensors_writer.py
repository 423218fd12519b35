"""The writing of a safetensors file one tensor at a time. The library's own writer wants all in memory.

The bytes are those of the library: the length of the header in 8 bytes, the header as JSON padded to a
multiple of 8, and the tensors in the order of their dtypes and then of their names, so that each is aligned.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from functools import partial
from io import FileIO
from pathlib import Path

import torch

from epmq_export.errors import InputError, OutputError
from epmq_export.tensors.safetensors_file import DTYPES
from epmq_export.tensors.source import TypedSource

_NAMES = {dtype: name for name, dtype in DTYPES.items()}
# The dtypes in the order in which the library writes their tensors.
_ORDER = ("I64", "F64", "F32", "I32", "BF16", "F16", "I16", "I8", "U8", "BOOL")


def bytes_of(source: TypedSource, name: str) -> int:
    """Return the bytes that a tensor takes in a file."""
    return torch.Size(source.shape(name)).numel() * source.dtype(name).itemsize


def write_one_by_one(
    path: Path,
    source: TypedSource,
    names: Sequence[str],
    metadata: Mapping[str, str] | None = None,
    before: str = "",
) -> None:
    """Write some tensors of a source as one file. The names in it lack what they all have `before` them.

    A tensor is written while the next one is loaded, and no more than these two are in memory. Raises
    OutputError where the disk does not take them, and InputError where a tensor is not as the source says.
    """
    ordered = sorted(names, key=lambda name: (_ORDER.index(_NAMES[source.dtype(name)]), name))
    header: dict[str, object] = {} if metadata is None else {"__metadata__": dict(metadata)}
    end = 0
    for name in ordered:
        start, end = end, end + bytes_of(source, name)
        header[name.removeprefix(before)] = {
            "dtype": _NAMES[source.dtype(name)],
            "shape": list(source.shape(name)),
            "data_offsets": [start, end],
        }
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    start_of_file = len(text).to_bytes(8, "little") + text
    _write(path, start_of_file, [partial(_data, source, name) for name in ordered])


def _write(path: Path, header: bytes, loads: Sequence[Callable[[], memoryview]]) -> None:
    """Write the header, and behind it what each function returns."""

    def put(file: FileIO, waiting: list[bytes | memoryview]) -> None:
        # It is taken out, because the pool keeps what it was given for a moment after the end.
        left = memoryview(waiting.pop())
        try:
            while left:  # The system takes at most 2 GiB at a time.
                left = left[file.write(left) :]
        except OSError as error:
            raise OutputError(f"{path}: cannot be written ({error.strerror})") from None

    # A file without a buffer has nothing left to write, and to fail with, when it is closed.
    with path.open("wb", buffering=0) as file, ThreadPoolExecutor(1) as writer:
        written: Future[None] = writer.submit(put, file, [header])
        for load in loads:
            data = load()
            written.result()
            written = writer.submit(put, file, [data])
        written.result()


def _data(source: TypedSource, name: str) -> memoryview:
    """Return the bytes of a tensor, after a comparison of it with what the source has said of it."""
    value = source.load(name)
    if value.dtype != source.dtype(name) or tuple(value.shape) != source.shape(name):
        raise InputError(
            f"tensor {name}: loaded {value.dtype} {list(value.shape)}, expected "
            f"{source.dtype(name)} {list(source.shape(name))}"
        )
    return value.contiguous().reshape(-1).view(torch.uint8).numpy().data
