"""The tensors of a packed checkpoint in the parts that its file has: codes and stored numbers, each by its
own name.
"""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor

from epmq_export.grids import GRIDS
from epmq_export.tensors.packed import (
    CODES,
    PackedTensor,
    assembled,
    dequantised,
    pack_codes,
    parts_of,
    places_of,
)
from epmq_export.tensors.source import Joined, TypedSource


class Parts(TypedSource, Protocol):
    """Tensors in the parts and under the names that the file of a packed checkpoint has."""

    @property
    def grids(self) -> Mapping[str, str]:
        """Return the grid of each tensor that is on one, by the tensor's own name."""
        ...


class InParts:
    """Tensors in memory in their parts. Codes are packed when they are loaded."""

    def __init__(self, tensors: Mapping[str, PackedTensor | Tensor]) -> None:
        self.grids: dict[str, str] = {}
        self._holders: dict[str, tuple[PackedTensor | Tensor, str]] = {}
        self._kinds: dict[str, tuple[torch.dtype, tuple[int, ...]]] = {}
        for name, value in tensors.items():
            if not isinstance(value, PackedTensor):
                self._holders[name], self._kinds[name] = (value, ""), (value.dtype, tuple(value.shape))
                continue
            self.grids[name] = value.grid.name
            for part, kind in parts_of(tuple(value.codes.shape), value.grid).items():
                self._holders[f"{name}.{part}"], self._kinds[f"{name}.{part}"] = (value, part), kind

    def names(self) -> list[str]:
        return [*self._kinds]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._kinds[name][1]

    def dtype(self, name: str) -> torch.dtype:
        return self._kinds[name][0]

    def load(self, name: str) -> Tensor:
        value, part = self._holders[name]
        if not isinstance(value, PackedTensor):
            return value.cpu()
        return (pack_codes(value.grid, value.codes) if part == CODES else value.stored[part]).cpu()


class Replaced(Joined):
    """Parts on disk, some of whose tensors others in memory have taken the place of, on the same grids."""

    def __init__(self, stored: Parts, tensors: Mapping[str, PackedTensor | Tensor]) -> None:
        super().__init__([stored, InParts(tensors)])  # Of a name that both have, the later one counts.
        self.grids = stored.grids


class Shipped:
    """Parts, read as the values that a file ships, each tensor whenever it is asked for."""

    def __init__(self, stored: Parts) -> None:
        self._stored = stored

    def names(self) -> list[str]:
        grids = self._stored.grids
        taken = {place for name, grid in grids.items() for place in places_of(name, GRIDS[grid]).values()}
        return sorted({*grids, *self._stored.names()} - taken)

    def shape(self, name: str) -> tuple[int, ...]:
        grid = self._stored.grids.get(name)
        if grid is None:
            return self._stored.shape(name)
        out, groups = self._stored.shape(places_of(name, GRIDS[grid])["scales"])
        return out, groups * GRIDS[grid].group

    def tensor(self, name: str) -> PackedTensor | Tensor:
        """Return a tensor as it is stored, on its grid or plain."""
        grid = self._stored.grids.get(name)
        return assembled(self._stored, name, None if grid is None else GRIDS[grid])

    def load(self, name: str) -> Tensor:
        """Return the values that a tensor ships: float32 where it is on a grid."""
        return dequantised(self.tensor(name))
