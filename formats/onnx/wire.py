"""The fields of protobuf's messages, by their places in the bytes of a file: protobuf itself reads a message
whole or not at all.

A message is a run of fields; the key of each is its number << 3 | its kind. Whatever reads raises DecodeError
where the bytes are no such run.
"""

import mmap
from collections.abc import Collection, Iterator
from typing import NamedTuple

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]

_VARINT, _FIXED64, _BYTES, _FIXED32 = 0, 1, 2, 5
_FIXED = {_FIXED64: 8, _FIXED32: 4}

Place = tuple[int, int]
"""Where bytes begin, and where they end."""


class Field(NamedTuple):
    """A field of a message, by the places of its bytes."""

    number: int
    start: int
    """The place of its key."""

    at: int
    """The place where its value begins."""

    end: int


def fields(content: mmap.mmap, message: Place) -> Iterator[Field]:
    """Yield the fields of a message."""
    start, end = message
    while start < end:
        key, at = _varint(content, start, end)
        number, kind = key >> 3, key & 7
        if kind == _VARINT:
            stop = _varint(content, at, end)[1]
        elif kind == _BYTES:
            length, at = _varint(content, at, end)
            stop = at + length
        elif kind in _FIXED:
            stop = at + _FIXED[kind]
        else:
            raise DecodeError
        if stop > end or number == 0:
            raise DecodeError
        yield Field(number, start, at, stop)
        start = stop


def inside(content: mmap.mmap, message: Place, numbers: Collection[int]) -> Iterator[Place]:
    """Yield the places of the values of the fields of these numbers."""
    return ((item.at, item.end) for item in fields(content, message) if item.number in numbers)


def without(content: mmap.mmap, message: Place, numbers: Collection[int]) -> bytes:
    """Return a message with the fields of these numbers left out."""
    return b"".join(
        content[item.start : item.end] for item in fields(content, message) if item.number not in numbers
    )


def head(number: int, length: int) -> bytes:
    """Return the key and the length that a field of so many bytes begins with."""
    key, digits = number << 3 | _BYTES, []
    for value in (key, length):
        while value >= 128:
            digits.append(value & 127 | 128)
            value >>= 7
        digits.append(value)
    return bytes(digits)


def _varint(content: mmap.mmap, at: int, end: int) -> tuple[int, int]:
    """Return a number, and the place where it ends."""
    value = 0
    for shift in range(0, 70, 7):
        if at >= end:
            break
        byte = content[at]
        at += 1
        value |= (byte & 127) << shift
        if byte < 128:
            return value, at
    raise DecodeError
