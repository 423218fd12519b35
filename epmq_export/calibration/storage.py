"""The storage of each tensor of a family."""

from collections.abc import Callable

import torch

from epmq_export.grids.layout import Layout, Storage
from epmq_export.models.blocks import linears
from epmq_export.models.classifiers import PREFIX
from epmq_export.models.family import Family, halves, towers

StorageOf = Callable[[str, tuple[int, ...]], tuple[Storage, str | None]]
"""Returns the storage of a tensor, by its name and shape, and a note or None as `Layout` does."""


def carried_linears(family: Family) -> list[str]:
    """Return the names of the weights of the text tower's linears, where it is not the family itself: a
    recipe's patterns may put them on a grid.
    """
    _, *others = towers(family)
    return [name for tower in others for name in linears(tower)]


def storage_of(family: Family, layout: Layout) -> StorageOf:
    """Return what decides how each tensor of a family is stored.

    Embeddings and calibrated linears are stored as the layout says. The linears of a text tower that is not
    calibrated are F16, or on the grid of the first pattern that matches, and so are the matrices of
    classifiers, which together may be as large as the model. All else is F32, but for what a runtime takes in
    F16 only.
    """
    calibrated, carried, half = set(linears(family)), set(carried_linears(family)), halves(family)

    def decide(name: str, shape: tuple[int, ...]) -> tuple[Storage, str | None]:
        if name in family.embeddings:
            return layout.embedding(name, shape)
        if name in calibrated or (name in carried and layout.pattern(name) is not None):
            return layout.linear(name, shape)
        head = name.startswith(PREFIX) and len(shape) > 1
        return (layout.half if name in half or name in carried or head else torch.float32), None

    return decide
