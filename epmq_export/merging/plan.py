"""What is merged into what: modules of slices of layers, each with its rule's settings."""

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
    """Where the recipe names it."""

    name: str
    location: str
    layers: tuple[int, int] | None
    """The first, and the one after the last; None: all of the model's."""


@dataclass(frozen=True)
class Slice:
    """Consecutive layers of the merge."""

    settings: MergeSettings
    base: Strand
    """The model whose names, shapes and dtypes count: for a rule that knows no base, the base if it is among
    the experts, else the first of them.
    """

    experts: Sequence[Strand]
    """The models that are merged, in the order of the settings."""


@dataclass(frozen=True)
class Plan:
    """What a recipe merges."""

    base: Strand
    """The recipe's own base, whatever that of a slice is."""

    counts_base: bool
    """Whether the rule needs no base, and counts one that is listed as one of the models."""

    modules: Mapping[str, Sequence[Slice]]
    """By name; WHOLE alone where models are merged as they are."""

    key: Key
    """Where the recipe has them: its `models`, `slices` or `modules`."""

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
