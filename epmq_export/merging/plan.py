"""The plan of a merge: modules of slices of layers, each with the settings of its rule."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from epmq_export.errors import Key
from epmq_export.merging.settings import MergeSettings

WHOLE = ""
"""The module of a recipe that merges models as they are."""


@dataclass(frozen=True)
class Strand:
    """One model of a slice."""

    key: Key
    """The place where the recipe names it."""

    name: str
    location: str
    layers: tuple[int, int] | None
    """The first layer and the one after the last, or None for all layers of the model."""


@dataclass(frozen=True)
class Slice:
    """Consecutive layers of the merge."""

    settings: MergeSettings
    base: Strand
    """The model whose names, shapes and dtypes count. For a rule that needs no base, it is the recipe's base
    if that is among the experts, and else the first expert.
    """

    experts: Sequence[Strand]
    """The models that are merged, in the order of the settings."""


@dataclass(frozen=True)
class Plan:
    """The plan of a recipe's merge."""

    base: Strand
    """The base of the recipe itself, whichever base a slice has."""

    counts_base: bool
    """Whether the rule needs no base, and merges one that is listed like any other model."""

    modules: Mapping[str, Sequence[Slice]]
    """The slices of each module, by its name. Where models are merged as they are there is WHOLE alone."""

    key: Key
    """The place where the recipe has them: its `models`, `slices` or `modules`."""

    def keeps_layers(self) -> bool:
        """Return whether each layer of the merge is made of the same layer of every model."""
        for slices in self.modules.values():
            first = 0
            for part in slices:
                ranges = {strand.layers for strand in (part.base, *part.experts)}
                if ranges == {None}:
                    continue
                start, stop = ranges.pop() or (-1, -1)
                if ranges or start != first:
                    return False
                first = stop
        return True
