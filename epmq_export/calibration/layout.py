"""Which tensor is stored how."""

from collections.abc import Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase

import torch

from epmq_export.grids import FALLBACK, GRIDS, Grid

DTYPES = {"F32": torch.float32, "F16": torch.float16}
Storage = Grid | torch.dtype


@dataclass(frozen=True)
class Layout:
    """Grids and dtypes by the recipe's names. With each answer comes a sentence where it is not what was asked for in general."""

    linears: str = "Q4_0"
    embeddings: str = "F16"
    keep: Sequence[str] = ()
    """Patterns of linears that stay in float16."""

    def linear(self, name: str, shape: tuple[int, ...]) -> tuple[Storage, str | None]:
        for pattern in self.keep:
            if fnmatchcase(name, pattern):
                return torch.float16, f"{name} stays F16, as {pattern!r} asks"
        return _storage(name, shape, self.linears)

    def embedding(self, name: str, shape: tuple[int, ...]) -> tuple[Storage, str | None]:
        return _storage(name, shape, self.embeddings)


def _storage(name: str, shape: tuple[int, ...], asked: str) -> tuple[Storage, str | None]:
    if asked in DTYPES:
        return DTYPES[asked], None
    found: str | None = asked
    while found is not None and not GRIDS[found].fits(shape):
        found = FALLBACK.get(found)
    if found == asked:
        return GRIDS[asked], None
    why = f"its {shape[-1]} inputs are no multiple of {asked}'s group of {GRIDS[asked].group}"
    return (GRIDS[found], f"{name} is stored on {found}: {why}") if found is not None else (torch.float16, f"{name} is stored F16: {why}")


def storage_name(storage: Storage) -> str:
    return storage.name if isinstance(storage, Grid) else next(name for name, dtype in DTYPES.items() if dtype == storage)
