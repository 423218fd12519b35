"""Long things made short for people: values of metadata, and tensors that differ only in the number of their
layer.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import yaml

from epmq_export.tensors.description import TensorDescription

LENGTH, ITEMS = 64, 4  # as long as a SHA-256
_NUMBER = re.compile(r"(?<![^./])\d+(?![^./])")  # a whole part of a dotted or slashed name


@dataclass(frozen=True)
class Row:
    """`count` tensors of one type, shape and size; `tensor` is one of them, under a name for all."""

    tensor: TensorDescription
    count: int


def rows(tensors: Sequence[TensorDescription]) -> list[Row]:
    """In the order of the tensors. `blk.0.ffn_up.weight` to `blk.5.ffn_up.weight` become
    `blk.{0-5}.ffn_up.weight` where all else is equal.
    """
    alike: dict[tuple[object, ...], list[TensorDescription]] = {}
    for tensor in tensors:
        alike.setdefault((_NUMBER.sub("#", tensor.name), tensor.type, tensor.shape, tensor.bytes), []).append(
            tensor
        )
    found = []
    for members in alike.values():
        numbers = [tuple(int(number) for number in _NUMBER.findall(tensor.name)) for tensor in members]
        places = [sorted(set(place)) for place in zip(*numbers, strict=True)]
        if len(members) > 1 and prod(len(place) for place in places) == len(set(numbers)) == len(members):
            ranges = iter(f"{{{_ranges(place)}}}" if len(place) > 1 else str(place[0]) for place in places)
            name = _NUMBER.sub(lambda _, ranges=ranges: next(ranges), members[0].name)  # type: ignore[misc]
            found.append(Row(replace(members[0], name=name), len(members)))
        else:  # a name for all would take in names that are not there
            found += [Row(tensor, 1) for tensor in members]
    return found


def _ranges(numbers: Sequence[int]) -> str:
    """Sorted and distinct: 0, 1, 2, 5 as `0-2,5`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def short(value: object) -> str:
    """On one line: of a list its length and first items, of an object its size and keys, of a long text its
    length and beginning.
    """
    if isinstance(value, str):
        text = visible(value)
        return text if len(text) <= LENGTH else f"{text[:LENGTH]}… ({len(value):,} characters)"
    if isinstance(value, list | tuple):
        if value and all(isinstance(item, Mapping) for item in value):
            return f"{len(value):,} items of {', '.join(visible(str(key)) for key in value[0])}"
        if len(value) <= ITEMS:
            return "[" + ", ".join(short(item) for item in value) + "]"
        return f"{len(value):,} items: {', '.join(short(item) for item in value[:ITEMS])}, …"
    if isinstance(value, Mapping):
        whole = visible(json.dumps(value, ensure_ascii=False, default=str))
        if len(whole) <= LENGTH:
            return whole
        first = [
            visible(str(key)) if isinstance(item, Mapping | list) else f"{visible(str(key))} {short(item)}"
            for key, item in value.items()
        ]
        return f"{len(value):,} keys: {', '.join(first[:ITEMS])}" + (", …" if len(first) > ITEMS else "")
    return str(value)


def origin(value: object) -> str:
    """A part of a file's provenance: inputs as a line each, plain facts on one line, all else (a recipe) as
    YAML.
    """
    if (
        isinstance(value, list)
        and value
        and all(isinstance(item, Mapping) and item.keys() == {"path", "sha256"} for item in value)
    ):
        lines = [f"{str(item['sha256'])[:12]}…  {item['path']}" for item in value]
    elif isinstance(value, Mapping) and not any(isinstance(item, Mapping | list) for item in value.values()):
        lines = [", ".join(f"{key} {item}" for key, item in value.items())]
    else:
        lines = yaml.safe_dump(value, sort_keys=False, allow_unicode=True).removesuffix("...\n").splitlines()
    return "\n".join(visible(line) for line in lines)


def visible(text: str) -> str:
    """With everything that is not printable as an escape: a file's texts shall not steer a terminal."""
    return "".join(
        letter if letter.isprintable() else letter.encode("unicode_escape").decode("ascii") for letter in text
    )
