"""Long things made short for people: values of metadata, and tensors that differ only in the number of their
layer.
"""

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import prod

import yaml

from epmq_export.console.terminal import sign, visible
from epmq_export.tensors.description import TensorDescription

# A text is cut after LENGTH characters, so that a SHA-256 stays whole, and a list after ITEMS items.
LENGTH, ITEMS = 64, 4
# A number that is a whole part of a name, between dots or slashes.
_NUMBER = re.compile(r"(?<![^./])\d+(?![^./])")


@dataclass(frozen=True)
class Row:
    """A row of the table of tensors: `count` tensors of one type, shape and size. `tensor` is one of them,
    under a name for all.
    """

    tensor: TensorDescription
    count: int


def rows(tensors: Sequence[TensorDescription]) -> list[Row]:
    """Return the rows in the order of the tensors. `blk.0.ffn_up.weight` to `blk.5.ffn_up.weight` become
    `blk.{0-5}.ffn_up.weight` where everything else is equal.
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
        else:  # A name for all would also stand for names that are not there.
            found += [Row(tensor, 1) for tensor in members]
    return found


def _ranges(numbers: Sequence[int]) -> str:
    """Return sorted and distinct numbers as ranges: 0, 1, 2, 5 as `0-2,5`."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ",".join(str(run[0]) if len(run) == 1 else f"{run[0]}-{run[-1]}" for run in runs)


def short(value: object) -> str:
    """Return a value on one line: a list as its length and first items, an object as its size and keys, a
    long text as its beginning and length.
    """
    if isinstance(value, str):
        text = visible(value)
        return text if len(text) <= LENGTH else f"{text[:LENGTH]}{sign('…')} ({len(value):,} characters)"
    if isinstance(value, list | tuple):
        if value and all(isinstance(item, Mapping) for item in value):
            return f"{len(value):,} items of {', '.join(visible(str(key)) for key in value[0])}"
        if len(value) <= ITEMS:
            return "[" + ", ".join(short(item) for item in value) + "]"
        return f"{len(value):,} items: {', '.join(short(item) for item in value[:ITEMS])}, {sign('…')}"
    if isinstance(value, Mapping):
        whole = visible(json.dumps(value, ensure_ascii=False, default=str))
        if len(whole) <= LENGTH:
            return whole
        first = [
            visible(str(key)) if isinstance(item, Mapping | list) else f"{visible(str(key))} {short(item)}"
            for key, item in value.items()
        ]
        more = f", {sign('…')}" if len(first) > ITEMS else ""
        return f"{len(value):,} keys: {', '.join(first[:ITEMS])}{more}"
    return str(value)


def origin(value: object) -> str:
    """Return a part of a file's provenance as text: each input on a line, plain facts on one line, and
    anything else (a recipe) as YAML.
    """
    if (
        isinstance(value, list)
        and value
        and all(isinstance(item, Mapping) and item.keys() == {"path", "sha256"} for item in value)
    ):
        lines = [f"{str(item['sha256'])[:12]}{sign('…')}  {item['path']}" for item in value]
    elif isinstance(value, Mapping) and not any(isinstance(item, Mapping | list) for item in value.values()):
        lines = [", ".join(f"{key} {item}" for key, item in value.items())]
    else:
        lines = yaml.safe_dump(value, sort_keys=False, allow_unicode=True).removesuffix("...\n").splitlines()
    return "\n".join(visible(line) for line in lines)
