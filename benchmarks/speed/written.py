"""Files of a model to compare the speed of: in full precision, and on grids."""

from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from epmq_export.calibration.rounding import nearest
from epmq_export.grids.layout import fitting
from epmq_export.installed import registry
from epmq_export.models.blocks import linears
from epmq_export.models.family import Family
from epmq_export.tensors import packed_writer as packing
from epmq_export.tensors.checkpoint import open_checkpoint
from epmq_export.tensors.packed import Packed, PackedTensor
from epmq_export.tensors.packed_index import PackedIndex
from epmq_export.tensors.source import renamed


@dataclass(frozen=True)
class Storage:
    """What a file holds its linears and its token embeddings on: a grid, F16 or F32. What has one axis is
    F32.
    """

    linears: str
    embeddings: str

    def __str__(self) -> str:
        return self.linears if self.linears == self.embeddings else f"{self.linears}, rows {self.embeddings}"


@dataclass(frozen=True)
class File:
    """A written file."""

    path: Path
    family: Family

    @property
    def size(self) -> int:
        """Return the bytes of the file, and of the weights beside it where it has any."""
        return sum(path.stat().st_size for path in self.path.parent.glob(f"{self.path.name}*"))


def written(directory: Path, format_name: str, storage: Storage, work: Path) -> File:
    """Write a model in a format, unless it is there. Weights are rounded to the nearest, because speed does
    not depend on their values; a grid that does not fit a tensor gives way as in a recipe.
    """
    family, form = registry().open_family(directory), registry().formats[format_name]
    name = f"{directory.name}-{storage.linears}-{storage.embeddings}"
    packed, out = work / f"{name}-packed", work / f"{name}-{format_name}"
    if not packed.exists():
        asked = dict.fromkeys(linears(family), storage.linears)
        asked |= dict.fromkeys(family.embeddings, storage.embeddings)
        source = renamed(open_checkpoint(str(directory)), family.canonical)
        tensors = {name: _stored(source.load(name).float(), asked.get(name)) for name in source.names()}
        index = PackedIndex(family=family.name, recipe={}, inputs=[], versions={}, method={})
        packing.write(packed, tensors, index, directory)
    if not out.exists():
        out.mkdir()
        form.write(Packed(packed), family, out)
    return File(form.find(out, family), family)


def _stored(value: Tensor, asked: str | None) -> PackedTensor | Tensor:
    if asked in (None, "F32"):
        return value
    grid = None if asked == "F16" else fitting(str(asked), tuple(value.shape))
    return value.half() if grid is None else nearest(value, grid)
