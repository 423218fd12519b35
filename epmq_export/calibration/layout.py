"""Which tensor is stored how."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch

from epmq_export.grids import GRIDS, Grid

DTYPES = {"F32": torch.float32, "F16": torch.float16}
Storage = Grid | torch.dtype


@dataclass
class Layout:
    """Grids and dtypes by the recipe's names. What is not stored as asked is named in `notes`, never silent."""

    linears: str = "Q4_0"
    embeddings: str = "F16"
    keep: Sequence[str] = ()
    """Patterns of linears that stay in float16."""

    notes: list[str] = field(default_factory=list)

    def linear(self, name: str, shape: tuple[int, ...]) -> Storage:
        matching = [pattern for pattern in self.keep if fnmatchcase(name, pattern)]
        if matching:
            self.notes.append(f"{name} stays F16, as {matching[0]!r} asks")
            return torch.float16
        return self._storage(name, shape, self.linears)

    def embedding(self, name: str, shape: tuple[int, ...]) -> Storage:
        return self._storage(name, shape, self.embeddings)

    def _storage(self, name: str, shape: tuple[int, ...], asked: str) -> Storage:
        if asked in DTYPES:
            return DTYPES[asked]
        grid = GRIDS[asked]
        if not grid.fits(shape):
            self.notes.append(f"{name} is stored F16: its {shape[-1]} inputs are no multiple of {asked}'s group of {grid.group}")
            return torch.float16
        return grid


def storage_name(storage: Storage) -> str:
    return storage.name if isinstance(storage, Grid) else next(name for name, dtype in DTYPES.items() if dtype == storage)
