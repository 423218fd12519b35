"""The placement of tensors: the file of a model that each lies in, its type and its shape."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod

import torch

from epmq_export.errors import InputError
from epmq_export.grids.layout import storage_name
from epmq_export.models.family import Family
from epmq_export.models.format import PlannedTensor
from epmq_export.models.specs import GgufSpec
from epmq_export.tensors.about import About
from epmq_export.tensors.ggml_types import GgmlType
from epmq_export.tensors.gguf_splits import MOST, split_name
from epmq_export.tensors.packed import Packed
from epmq_export.tensors.packed_index import PackedIndex
from epmq_export.tensors.shards import groups
from formats.gguf.spec import export_of
from formats.gguf.types import TYPES, kind_of

Layout = Mapping[str, tuple[GgmlType, tuple[int, ...]]]
"""The type and the shape of each tensor, by its name in the file, in the order of the file."""


def data_bytes(kind: GgmlType, shape: Sequence[int]) -> int:
    """Return the bytes of a tensor's data: those of its blocks."""
    return prod(shape) // kind.values * kind.size


def layout_of(tensors: Mapping[str, PlannedTensor], spec: GgufSpec) -> Layout:
    """Return the layout of those tensors that the file holds, followed by the constants that the config
    gives. Raises InputError where those that it holds as one are not stored alike.
    """
    held = {
        there: _together(there, {here: tensors[here] for here in members}, spec)
        for there, members in spec.members.items()
        if members[0] in tensors
    }
    constants = {
        name: PlannedTensor(tuple(tensor.shape), torch.float32) for name, tensor in spec.constants.items()
    }
    return {
        name: (kind_of(tensor.storage, tensor.shape), tensor.shape)
        for name, tensor in (held | constants).items()
    }


def _together(there: str, tensors: Mapping[str, PlannedTensor], spec: GgufSpec) -> PlannedTensor:
    """Return the tensor of the file that some of ours are."""
    (first, whole), *others = tensors.items()
    if not others:
        return _without_first(whole, spec.begins.get(first, 0))
    for name, other in others:
        if other != whole:
            raise InputError(
                f"tensor {name} is {storage_name(other.storage)} {list(other.shape)}, expected "
                f"{storage_name(whole.storage)} {list(whole.shape)} as {first}: GGUF holds both in {there}"
            )
    return replace(whole, shape=(len(tensors), *whole.shape))


def _without_first(tensor: PlannedTensor, rows: int) -> PlannedTensor:
    return replace(tensor, shape=(tensor.shape[0] - rows, *tensor.shape[1:])) if rows else tensor


def file_type(layout: Layout) -> str:
    """Return what a file is called by the type that most of its matrices have."""
    matrices = Counter(kind.name for kind, shape in layout.values() if len(shape) > 1)
    return TYPES[max(matrices, key=lambda kind: matrices[kind], default="F32")].file_type


def stem_of(layout: Layout, about: About) -> str:
    """Return the name of a model's file without its ending, as clients of the hub look for one of a type:
    `NAME-Q4_0`.
    """
    return f"{about.stem}-{file_type(layout)}"


def parts_of(layout: Layout, index: PackedIndex) -> dict[str, list[str]]:
    """Return the tensors of each file, in their order. The data of a file take at most `index.split_bytes`,
    unless one tensor alone is larger. Without a limit there is one file.

    Raises InputError where there would be too many files.
    """
    stem, limit = stem_of(layout, index.about), index.split_bytes
    sizes = {name: data_bytes(*entry) for name, entry in layout.items()}
    parts = [[*sizes]] if limit is None else groups(sizes, limit)
    if len(parts) > MOST:
        raise InputError(
            f"{stem}.gguf: export.split_size asks for {len(parts)} files, expected at most {MOST}"
        )
    return {
        f"{stem}.gguf" if len(parts) == 1 else split_name(stem, number, len(parts)): names
        for number, names in enumerate(parts)
    }


def packed_layout(packed: Packed, family: Family, spec: GgufSpec) -> tuple[Layout, dict[str, list[str]]]:
    """Return the layout of a packed checkpoint, and its tensors by file.

    Raises InputError where packed checkpoint and family do not have the same tensors, and where the runtimes
    of the family's files cannot read them.
    """
    _refuse_mismatch(packed, family, spec)
    layout = layout_of(
        {name: PlannedTensor(packed.shape(name), packed.storage(name)) for name in packed.names()}, spec
    )
    parts = parts_of(layout, packed.index)
    export = export_of(family)
    if len(parts) > 1 and not export.splits:
        raise InputError(
            f"{packed.directory}: its recipe has export.split_size, expected none: "
            f"{export.runtimes[0]} reads no model in several files"
        )
    return layout, parts


def _refuse_mismatch(packed: Packed, family: Family, spec: GgufSpec) -> None:
    """Raise InputError where packed checkpoint and family do not have the same tensors, or where a runtime
    cannot read a grid.
    """
    for name in sorted((set(packed.names()) - spec.left_out) ^ set(spec.names)):
        state = "missing" if name in spec.names else "not one of its tensors"
        raise InputError(
            f"{packed.directory}: tensor {name} is {state}, as {family.name} is laid out in GGUF"
        )
    export = export_of(family)
    for name, grid in packed.grids.items():
        if export.grids is not None and grid.file_type not in export.grids:
            known = " or ".join(sorted(export.grids))
            raise InputError(
                f"{packed.directory}: tensor {name} is on {grid.name}, expected {known}: "
                f"{export.runtimes[0]} cannot read it in GGUF"
            )
