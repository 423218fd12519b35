"""The size of a GGUF file before it is written, from names, shapes and types alone."""

from collections import Counter
from collections.abc import Mapping

from epmq_export.models.format import PlannedTensor
from epmq_export.models.specs import GgufSpec
from epmq_export.tensors.gguf_file import ALIGNMENT
from epmq_export.tensors.gguf_splits import KEYS
from epmq_export.tensors.packed_index import PackedIndex
from formats.gguf.general import common_keys
from formats.gguf.metadata import origin_of
from formats.gguf.placement import data_bytes, layout_of, parts_of

# The bytes of magic, version, and the numbers of tensors and keys.
_HEADER = 24


def gguf_size(
    tensors: Mapping[str, PlannedTensor],
    spec: GgufSpec,
    index: PackedIndex,
) -> dict[str, dict[str, int]]:
    """Return the bytes of each file by type. `rest` has everything else, with the padding of tensors to
    multiples of 32.
    """
    layout = layout_of(tensors, spec)
    parts = parts_of(layout, index)
    common = {**common_keys(index.about, spec, layout), **spec.metadata, **origin_of(index)}
    found = {}
    for number, (place, names) in enumerate(parts.items()):
        keys: dict[str, object] = {} if number else dict(common)
        keys |= {} if len(parts) == 1 else dict.fromkeys(KEYS, 0)
        rest = _HEADER + sum(_key(key, value) for key, value in keys.items())
        sizes: Counter[str] = Counter()
        padding = 0
        for name in names:
            kind, shape = layout[name]
            size = data_bytes(kind, shape)
            sizes[kind.name] += size
            padding += -size % ALIGNMENT
            rest += 8 + len(name.encode()) + 4 + 8 * len(shape) + 4 + 8
        found[place] = {**sizes, "rest": rest + -rest % ALIGNMENT + padding}
    return found


def _key(name: str, value: object) -> int:
    """Return the bytes of a key, of the type of its value, and of the value."""
    return 8 + len(name.encode()) + 4 + _value(value)


def _value(value: object) -> int:
    """Return the bytes of a value."""
    match value:
        case str():
            return 8 + len(value.encode())
        case bool():
            return 1
        case bytes():
            return 12 + len(value)
        case list():
            return 12 + sum(_value(item) for item in value)
        case _:
            return 4
