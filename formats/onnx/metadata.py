"""The metadata of an ONNX file: the keys that a packed checkpoint asks for, and how a file's own differ from
them.
"""

import json
from collections.abc import Collection, Mapping

from onnx import ModelProto

from epmq_export._version import __version__
from epmq_export.tensors.packed import Packed
from epmq_export.tensors.packed_index import PackedIndex

# The parts of packed.json about the origin, in the order of the file.
_ORDER = ("recipe", "inputs", "versions", "method")
GRIDS_KEY, GRAPH_KEY = "epmq.grids", "epmq.graph"


def origin_of(index: PackedIndex) -> dict[str, str]:
    """Return the keys about the file's origin, each in JSON, as packed.json has it."""
    return {f"epmq.{key}": _json(index.provenance[key]) for key in _ORDER}


def metadata_of(packed: Packed, held: Collection[str], digest: str) -> dict[str, str]:
    """Return all keys of a model that holds these tensors and whose graph has this digest, in the order of
    the file.
    """
    grids = {name: grid.name for name, grid in sorted(packed.grids.items()) if name in held}
    return {
        "epmq.version": __version__,
        **origin_of(packed.index),
        GRIDS_KEY: _json(grids),
        GRAPH_KEY: digest,
    }


def keys_of(model: ModelProto) -> dict[str, str]:
    """Return a model's own keys. Each is there once, because the checker refuses a second one."""
    return {item.key: item.value for item in model.metadata_props}


def key_differences(found: Mapping[str, str], expected: Mapping[str, str]) -> list[str]:
    """Return a sentence for each key that differs. The graph's own digest, which `expected` has, comes
    last.
    """
    sentences = [
        f"metadata key {key} is {short(found.get(key))}, expected {short(expected.get(key))}"
        for key in sorted(found.keys() | expected.keys())
        if found.get(key) != expected.get(key) and key != GRAPH_KEY
    ]
    if found.get(GRAPH_KEY) != expected[GRAPH_KEY]:
        sentences.append(
            f"the graph's SHA-256 is {expected[GRAPH_KEY]}, but metadata key {GRAPH_KEY} is "
            f"{short(found.get(GRAPH_KEY))}"
        )
    return sentences


def short(text: str | None) -> str:
    """Return a value as a sentence shows it: quoted and cut, or `missing`."""
    if text is None:
        return "missing"
    return repr(text if len(text) <= 60 else f"{text[:57]}...")


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False, sort_keys=True)
