"""GGUF, as llama.cpp reads it: written from a packed checkpoint, and read back."""

from collections.abc import Iterator, Mapping
from pathlib import Path

from torch import Tensor

from epmq_export import files
from epmq_export.errors import InputError
from epmq_export.grids import GRIDS
from epmq_export.models.family import Family, heads_of
from epmq_export.models.format import PlannedTensor
from epmq_export.tensors.gguf_splits import is_later_split
from epmq_export.tensors.packed import Packed, PackedTensor
from epmq_export.tensors.packed_index import PackedIndex
from formats.gguf.beside import files_beside, sizes_beside
from formats.gguf.metadata import by_file, metadata_of
from formats.gguf.placement import packed_layout
from formats.gguf.size import gguf_size
from formats.gguf.spec import NAME, spec_of
from formats.gguf.types import BLOCKS
from formats.gguf.values import in_file, not_restored
from formats.gguf.writer import write_gguf
from formats.gguf.written import WrittenGguf


class Gguf:
    """The format GGUF."""

    name = NAME
    packages = ("gguf",)
    fixed_seconds = 0.1, 1.0
    grids = frozenset(name for name, grid in GRIDS.items() if grid.file_type in BLOCKS)

    def write(self, packed: Packed, family: Family, folder: Path) -> Path:
        """Write NAME-TYPE.gguf, such as `support-Q4_0.gguf`, or the files that the recipe's export.split_size
        asks for, with the heads of classifiers beside them, and return the first.

        The same packed checkpoint gives the same bytes. Raises InputError where packed checkpoint and family
        do not have the same tensors.
        """
        spec = spec_of(family)
        layout, parts = packed_layout(packed, family, spec)
        members = spec.members
        metadata = by_file(metadata_of(packed, family, spec, layout), [*parts.values()])
        paths = [folder / name for name in parts]

        def parts_of(name: str) -> Iterator[PackedTensor | Tensor]:
            if name in spec.constants:
                yield spec.constants[name]
            for here in members.get(name, ()):
                yield in_file(packed.tensor(here), here, spec)

        try:
            for path, names, keys in zip(paths, parts.values(), metadata, strict=True):
                with files.whole(path) as built:
                    write_gguf(built, keys, {name: layout[name] for name in names}, map(parts_of, names))
            for name, content in files_beside(packed, spec, heads_of(family)).items():
                paths.append(folder / name)
                with files.whole(paths[-1]) as built:
                    built.write_bytes(content)
        except BaseException:
            for path in paths:  # A model without some of its files is not whole.
                files.remove(path)
            raise
        return paths[0]

    def sizes(
        self, tensors: Mapping[str, PlannedTensor], family: Family, index: PackedIndex
    ) -> Mapping[str, Mapping[str, int]]:
        spec = spec_of(family)
        return {**gguf_size(tensors, spec, index), **sizes_beside(tensors, spec)}

    def find(self, folder: Path, family: Family) -> Path:
        """Return the only model that lies there, by its first file, whatever the family."""
        every = sorted(folder.glob("*.gguf"))
        found = [path for path in every if path.is_file() and not is_later_split(path)]
        if len(found) != 1:
            raise InputError(
                f"{folder}: has {' and '.join(path.name for path in found)}, expected one model"
                if len(found) > 1
                else f"{folder}: has no file of a model, expected one that ends in .gguf"
            )
        return found[0]

    def open(self, path: Path, family: Family) -> WrittenGguf:
        return WrittenGguf(path, family)

    def left_out(self, family: Family) -> frozenset[str]:
        spec = spec_of(family)
        return spec.left_out | not_restored(spec)
