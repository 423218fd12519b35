"""The most that the files of a format may take, from which the grids of the linears follow."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import ceil

from epmq_export.calibration.budget import on_at_most
from epmq_export.grids import Grid
from epmq_export.grids.layout import Layout
from epmq_export.models.blocks import linears
from epmq_export.models.family import Family
from epmq_export.models.format import Format
from epmq_export.pipeline.forecast.planned import planned_tensors
from epmq_export.recipe.recipe import Recipe
from epmq_export.tensors.packed_index import PackedIndex

MARGIN = 64
"""The bytes a tensor by which a size that is computed beforehand may be wrong: ONNX has estimates."""


@dataclass(frozen=True)
class SizeLimit:
    """A limit on what the model files of each of some formats take together."""

    bytes: int
    formats: Sequence[Format]
    family: Family
    shapes: Mapping[str, tuple[int, ...]]
    """The shape of every tensor of the model."""

    index: PackedIndex
    """What packed.json will say, which the files have in their metadata."""

    def taken(self, layout: Layout) -> int:
        """Return the bytes that the files of the largest format take at most."""
        planned = planned_tensors(self.family, self.shapes, layout, [])
        sizes = [format.sizes(planned, self.family, self.index).values() for format in self.formats]
        return MARGIN * len(planned) + max(sum(sum(types.values()) for types in each) for each in sizes)

    def fits(self, layout: Layout) -> bool:
        """Return whether the files are within the limit."""
        return self.taken(layout) <= self.bytes

    def require(self, recipe: Recipe, layout: Layout, candidates: Sequence[Grid]) -> None:
        """Raise RecipeError, with the smallest size, where not even the smallest candidates fit."""
        held = {name: self.shapes[name] for name in linears(self.family)}
        least = self.taken(on_at_most(layout, held, candidates, 0.0))
        if least > self.bytes:
            names = " and ".join(format.name.upper() for format in self.formats)
            raise recipe.mistake(
                ("quantization", "size"),
                f"found {recipe.quantization.size}, expected at least {ceil(least / 1000)}K, which {names} "
                "takes with all linears on the smallest grids",
            )
