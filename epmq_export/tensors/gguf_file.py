"""A GGUF file as it lies on disk, read by a reader that trusts nothing.

Every count, length and offset is compared with the bytes that are there before anything is allocated or
looped over, so that a truncated or forged file ends in one sentence and not in a hang. What llama.cpp refuses
(gaps or overlaps between tensors, repeated names) is refused here, where the message can name it.
"""

import mmap
import struct
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from math import prod
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
from gguf import GGUFValueType
from numpy.typing import NDArray

from epmq_export.errors import InputError
from epmq_export.files import refuse_pointer
from epmq_export.tensors.ggml_types import BY_NUMBER, GgmlType

MAGIC = b"GGUF"
VERSIONS = (2, 3)
ALIGNMENT_KEY, ALIGNMENT = "general.alignment", 32
_MAX_DIMENSIONS, _MAX_NAME, _MAX_KEY = 4, 63, 65535
_SCALARS = {
    GGUFValueType.UINT8: "B",
    GGUFValueType.INT8: "b",
    GGUFValueType.UINT16: "H",
    GGUFValueType.INT16: "h",
    GGUFValueType.UINT32: "I",
    GGUFValueType.INT32: "i",
    GGUFValueType.FLOAT32: "f",
    GGUFValueType.BOOL: "B",
    GGUFValueType.UINT64: "Q",
    GGUFValueType.INT64: "q",
    GGUFValueType.FLOAT64: "d",
}
# The least bytes that a string, a metadata entry and a tensor's header take. They bound a count before its
# loop begins.
_LEAST_STRING, _LEAST_ENTRY, _LEAST_TENSOR = 8, 8 + 4 + 1, 8 + 4 + 8 + 4 + 8


SHOWN = 80


def shown(text: str, limit: int = SHOWN) -> str:
    """Return a file's text for one line of a terminal, with control characters escaped, cut to `limit`
    characters.
    """
    text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 1] + "…"


def is_gguf(path: Path) -> bool:
    """Return whether the path is a file whose name ends in .gguf. The content is not read."""
    return path.suffix.lower() == ".gguf" and path.is_file()


@dataclass(frozen=True)
class Value:
    """A metadata value with its type in the file; `items` is the type of an array's items."""

    type: GGUFValueType
    value: Any
    items: GGUFValueType | None = None


@dataclass(frozen=True)
class TensorInfo:
    """The place of a tensor. `shape` is as in torch, slowest dimension first; `start` and `size` are in bytes
    of the file.
    """

    name: str
    type: GgmlType
    shape: tuple[int, ...]
    start: int
    size: int


@dataclass(frozen=True)
class GgufFile:
    """The metadata of one GGUF file, and where its tensors lie."""

    path: Path
    version: int
    metadata: dict[str, Value]
    tensors: dict[str, TensorInfo]

    @classmethod
    def open(cls, path: Path) -> "GgufFile":
        """Read and validate everything but the values of the tensors.

        Raises InputError where the file is not whole and well-formed.
        """
        with _parser(path) as parser:
            return parser.file()

    @cached_property
    def _bytes(self) -> NDArray[np.uint8]:
        return np.memmap(self.path, np.uint8, "r")

    def raw(self, name: str) -> NDArray[np.uint8]:
        """Return the bytes of a tensor, uint8 [size], mapped from the file and not read."""
        info = self.tensors[name]
        return self._bytes[info.start : info.start + info.size]


def metadata_before(path: Path, stop: str) -> dict[str, Value]:
    """Return the metadata that stand before the first key that begins with `stop`, and read no more: behind
    them may be a vocabulary, which takes seconds.

    Raises InputError where the file is not well-formed up to there.
    """
    with _parser(path) as parser:
        return parser.metadata(parser.counts()[1], stop)


@contextmanager
def _parser(path: Path) -> Iterator["_Parser"]:
    """Give a reader at the beginning of a file. Raises InputError where it cannot be read."""
    try:
        with path.open("rb") as file:
            if path.stat().st_size == 0:
                raise InputError(f"{path}: the file is empty, expected a GGUF file")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
                yield _Parser(path, content)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror or error})") from None


class _Parser:
    """A reader that walks through the bytes of a GGUF file. Each method reads what its name says at the place
    where the reader stands, and raises InputError where it is not there.
    """

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self.path = path
        self.content = content
        self.size = len(content)
        self.at, self.version = 0, 0

    def file(self) -> GgufFile:
        tensors, entries = self.counts()
        metadata = self.metadata(entries)
        infos = [self.tensor_info(index) for index in range(tensors)]
        placed = self.place(infos, self.alignment(metadata))
        return GgufFile(path=self.path, version=self.version, metadata=metadata, tensors=placed)

    def counts(self) -> tuple[int, int]:
        """Read up to the metadata, and return the numbers of tensors and of metadata entries."""
        magic = self.take(4, "the magic")
        if magic != MAGIC:
            refuse_pointer(self.path, "it is no GGUF file")
            self.fail(f"begins with {magic!r}, expected {MAGIC!r}: it is no GGUF file")
        self.version = version = self.number("I", "the version")
        if version not in VERSIONS:
            swapped = int.from_bytes(version.to_bytes(4, "little"), "big")
            self.fail(
                "is big-endian, expected little-endian"
                if swapped in VERSIONS
                else f"is GGUF version {version}, expected 2 or 3"
            )
        return self.count(_LEAST_TENSOR, "tensors"), self.count(_LEAST_ENTRY, "metadata entries")

    def metadata(self, entries: int, stop: str | None = None) -> dict[str, Value]:
        """Read so many entries, or those before the first whose key begins with `stop`."""
        found: dict[str, Value] = {}
        for index in range(entries):
            key = self.string(f"key {index}", _MAX_KEY)
            if stop is not None and key.startswith(stop):
                break
            if key in found:
                self.fail(f"key {key!r} stands twice")
            found[key] = self.value(self.value_type(key), key)
        return found

    def fail(self, what: str) -> NoReturn:
        raise InputError(f"{self.path}: {shown(what, 4 * SHOWN)}")

    def take(self, length: int, what: str) -> bytes:
        if length > self.size - self.at:
            self.fail(
                f"ends within {what}: {length} bytes expected at byte {self.at}, the file has {self.size}"
            )
        self.at += length
        return self.content[self.at - length : self.at]

    def number(self, code: str, what: str) -> int:
        return int(struct.unpack("<" + code, self.take(struct.calcsize("<" + code), what))[0])

    def count(self, least: int, what: str) -> int:
        """Read a number of things that take at least `least` bytes each, and refuse one that the file cannot
        hold.
        """
        count = self.number("Q", f"the number of {what}")
        if count * least > self.size - self.at:
            self.fail(f"says that it has {count} {what}, more than its {self.size} bytes can hold")
        return count

    def string(self, what: str, limit: int | None = None) -> str:
        length = self.count(1, f"bytes in {what}")
        if limit is not None and not 0 < length <= limit:
            self.fail(f"{what} is a name of {length} bytes, expected 1 to {limit}")
        try:
            return self.take(length, what).decode("utf-8")
        except UnicodeDecodeError:
            self.fail(f"{what} is not UTF-8")

    def value_type(self, what: str) -> GGUFValueType:
        found = self.number("I", f"the type of {what}")
        try:
            return GGUFValueType(found)
        except ValueError:
            self.fail(f"{what} is of type {found}, expected one of GGUF's 0 to {max(GGUFValueType)}")

    def value(self, kind: GGUFValueType, key: str) -> Value:
        if kind == GGUFValueType.STRING:
            return Value(kind, self.string(f"the value of {key!r}"))
        if kind != GGUFValueType.ARRAY:
            return Value(kind, self.scalars(kind, 1, key)[0])
        items = self.value_type(f"the items of {key!r}")
        if items == GGUFValueType.ARRAY:
            self.fail(f"{key!r} is an array of arrays, expected numbers or strings")
        if items == GGUFValueType.STRING:
            return Value(
                kind,
                [
                    self.string(f"{key}[{index}]")
                    for index in range(self.count(_LEAST_STRING, f"items in {key!r}"))
                ],
                items,
            )
        count = self.count(struct.calcsize("<" + _SCALARS[items]), f"items in {key!r}")
        return Value(kind, self.scalars(items, count, key), items)

    def scalars(self, kind: GGUFValueType, count: int, key: str) -> list[Any]:
        code = f"<{count}{_SCALARS[kind]}"
        values = list(struct.unpack(code, self.take(struct.calcsize(code), f"the value of {key!r}")))
        if kind != GGUFValueType.BOOL:
            return values
        if any(value > 1 for value in values):
            self.fail(f"{key!r} holds a {max(values)}, expected a bool of 0 or 1")
        return [bool(value) for value in values]

    def alignment(self, metadata: dict[str, Value]) -> int:
        given = metadata.get(ALIGNMENT_KEY, Value(GGUFValueType.UINT32, ALIGNMENT))
        if given.type != GGUFValueType.UINT32 or given.value == 0 or given.value & (given.value - 1):
            self.fail(
                f"{ALIGNMENT_KEY} is {given.value!r} ({given.type.name}), expected a UINT32 that is a "
                "power of two"
            )
        return int(given.value)

    def tensor_info(self, index: int) -> TensorInfo:
        """Read a tensor's header. Its `start` is still relative to the beginning of the data."""
        name = self.string(f"the name of tensor {index}", _MAX_NAME)
        dimensions = self.number("I", f"the shape of {name}")
        if not 1 <= dimensions <= _MAX_DIMENSIONS:
            self.fail(f"tensor {name} has {dimensions} dimensions, expected 1 to {_MAX_DIMENSIONS}")
        shape = struct.unpack(f"<{dimensions}Q", self.take(8 * dimensions, f"the shape of {name}"))[::-1]
        found = self.number("I", f"the type of {name}")
        if found not in BY_NUMBER:
            self.fail(f"tensor {name} is of type {found}, which GGUF does not have")
        kind = BY_NUMBER[found]
        if 0 in shape or shape[-1] % kind.values:
            self.fail(
                f"tensor {name} is {list(shape)}, expected rows of whole {kind.name} blocks of {kind.values}"
            )
        return TensorInfo(
            name=name,
            type=kind,
            shape=shape,
            start=self.number("Q", f"the offset of {name}"),
            size=prod(shape) // kind.values * kind.size,
        )

    def place(self, infos: list[TensorInfo], alignment: int) -> dict[str, TensorInfo]:
        """Return the tensors by name, with `start` counted from the beginning of the file."""
        data = -(-self.at // alignment) * alignment
        placed: dict[str, TensorInfo] = {}
        end = self.at
        expected = 0
        for info in infos:
            if info.name in placed:
                self.fail(f"tensor {info.name} stands twice")
            if info.start != expected:
                self.fail(
                    f"tensor {info.name} begins at offset {info.start}, expected {expected}: right behind "
                    "the tensor before it"
                )
            end = data + info.start + info.size
            if end > self.size:
                self.fail(f"ends within tensor {info.name}: {end} bytes expected, the file has {self.size}")
            placed[info.name] = replace(info, start=data + info.start)
            expected = -(-(info.start + info.size) // alignment) * alignment
        if self.size > max(end, data + expected):
            self.fail(f"has {self.size - end} bytes behind its last tensor, expected at most {alignment - 1}")
        return placed
