"""The keys of a GGUF file: those that a packed checkpoint and its family ask for, and how a file's own differ
from them.
"""

import json
from collections.abc import Mapping, Sequence

import numpy as np
from gguf import GGUFValueType

from epmq_export.models.family import Family
from epmq_export.models.specs import GgufSpec
from epmq_export.tensors.gguf_file import Value, shown
from epmq_export.tensors.gguf_splits import split_keys
from epmq_export.tensors.packed import Packed
from epmq_export.tensors.packed_index import PackedIndex
from formats.gguf.general import common_keys
from formats.gguf.placement import Layout


def origin_of(index: PackedIndex) -> dict[str, str]:
    """Return the keys about the file's origin, each in JSON, as packed.json has it."""
    return {
        f"epmq.{key}": json.dumps(value, ensure_ascii=False, separators=(",", ":"))
        for key, value in index.provenance.items()
    }


def metadata_of(packed: Packed, family: Family, spec: GgufSpec, layout: Layout) -> dict[str, Value]:
    """Return all keys of a model, in the order of the file."""
    values = {**common_keys(packed.index.about, spec, layout), **spec.metadata, **origin_of(packed.index)}
    if "epmq-export" in packed.index.versions:
        values["epmq.version"] = packed.index.versions["epmq-export"]
    return {key: _value(value) for key, value in values.items()}


def by_file(metadata: Mapping[str, Value], parts: Sequence[Sequence[str]]) -> list[dict[str, Value]]:
    """Return the keys of each file. The first has all. Each of several files also has its place among
    them.
    """
    if len(parts) == 1:
        return [dict(metadata)]
    keys = [split_keys(number, len(parts), sum(map(len, parts))) for number in range(len(parts))]
    return [{**metadata, **keys[0]}, *keys[1:]]


def key_differences(found: Mapping[str, Value], expected: Mapping[str, Value]) -> list[str]:
    """Return a sentence for each key that differs. For an array it names the first item that differs."""
    sentences = []
    for key in {**expected, **found}:
        there, here = found.get(key), expected.get(key)
        label = shown(key)
        if there == here:
            continue
        if there is None:
            sentences.append(f"key {label} is missing: expected {_short(expected[key].value)}")
        elif here is None:
            sentences.append(f"key {label} is not expected: found {_short(there.value)}")
        elif (there.type, there.items) != (here.type, here.items):
            sentences.append(f"key {label}: found type {_type_text(there)}, expected {_type_text(here)}")
        elif there.type == GGUFValueType.ARRAY and len(there.value) != len(here.value):
            sentences.append(f"key {label}: found {len(there.value)} items, expected {len(here.value)}")
        elif there.type == GGUFValueType.ARRAY:
            differing = [
                index
                for index, (one, other) in enumerate(zip(there.value, here.value, strict=True))
                if one != other
            ]
            first = differing[0]
            more = f" ({len(differing)} items differ)" if len(differing) > 1 else ""
            sentences.append(
                f"key {label}[{first}]: found {_short(there.value[first])}, expected "
                f"{_short(here.value[first])}{more}"
            )
        else:
            sentences.append(f"key {label}: found {_short(there.value)}, expected {_short(here.value)}")
    return sentences


def _short(value: object) -> str:
    return shown(repr(value))


def _type_text(value: Value) -> str:
    return f"array of {value.items.name}" if value.items is not None else value.type.name


def _value(value: object) -> Value:
    """Return a value with its type in the file."""
    if isinstance(value, bytes):
        return Value(GGUFValueType.ARRAY, list(value), GGUFValueType.UINT8)
    if isinstance(value, list):
        return Value(
            GGUFValueType.ARRAY, [_value(item).value for item in value], _scalar_type(value[0], of_list=True)
        )
    # The value is rounded as the file rounds it, so that it is equal to the one that is read back.
    return Value(_scalar_type(value), float(np.float32(value)) if isinstance(value, float) else value)


def _scalar_type(value: object, *, of_list: bool = False) -> GGUFValueType:
    match value:
        case bool():
            return GGUFValueType.BOOL
        case int():
            return GGUFValueType.INT32 if of_list else GGUFValueType.UINT32
        case float():
            return GGUFValueType.FLOAT32
        case _:
            return GGUFValueType.STRING
