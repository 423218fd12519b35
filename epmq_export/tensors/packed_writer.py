"""The writing of a packed checkpoint, from memory or from the parts of its tensors on disk."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from epmq_export import files
from epmq_export.grids import GRIDS
from epmq_export.tensors import shards
from epmq_export.tensors.companions import copy_companions
from epmq_export.tensors.directory import MODEL, PACKED, PACKED_INDEX
from epmq_export.tensors.packed import PackedTensor, places_of
from epmq_export.tensors.packed_index import PackedIndex
from epmq_export.tensors.packed_parts import InParts, Parts
from epmq_export.tensors.safetensors_writer import bytes_of, write_one_by_one


def write(
    directory: Path,
    tensors: Mapping[str, PackedTensor | Tensor],
    index: PackedIndex,
    source: Path,
    beside: Mapping[str, bytes] | None = None,
) -> None:
    """Write tensors in memory as a packed checkpoint, as `write_parts` does."""
    write_parts(directory, InParts(tensors), index, source, beside or {})


def write_parts(
    directory: Path, stored: Parts, index: PackedIndex, source: Path, beside: Mapping[str, bytes]
) -> None:
    """Write a packed checkpoint, whole or not at all, with the companions of the directory `source` and the
    files `beside`, by name.

    The grids of `index` become those of the tensors, whatever it says. The same arguments give the same
    bytes. Only two parts of tensors at a time are in memory.
    """
    places = {name: [*places_of(name, GRIDS[grid]).values()] for name, grid in stored.grids.items()}
    taken = {place for each in places.values() for place in each}
    places |= {name: [name] for name in stored.names() if name not in taken}
    sizes = {name: sum(bytes_of(stored, place) for place in places[name]) for name in sorted(places)}
    with files.whole(directory) as built:
        built.mkdir()
        copy_companions(source, built)
        for name, written in beside.items():
            (built / name).write_bytes(written)
        called = PACKED if stored.grids else MODEL
        held = {
            file: [place for name in names for place in places[name]]
            for file, names in shards.split(sizes, shards.SHARD_BYTES, called).items()
        }
        for file, parts in held.items():
            write_one_by_one(built / file, stored, parts)
        if len(held) > 1:
            placed = {part: file for file, parts in held.items() for part in parts}
            shards.write_index(built, placed, sum(sizes.values()), called)
        content = replace(index, grids=dict(sorted(stored.grids.items()))).as_dict()
        text = json.dumps(content, indent=1, ensure_ascii=False, allow_nan=False)
        (built / PACKED_INDEX).write_text(text + "\n", encoding="utf-8")
