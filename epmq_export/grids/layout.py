"""The layout of a file: which tensor is stored on which grid, or in which dtype."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch

from epmq_export.grids import FALLBACK, GRIDS, Grid

DTYPES = {"F32": torch.float32, "F16": torch.float16}
Storage = Grid | torch.dtype


@dataclass(frozen=True)
class Layout:
    """How tensors are stored, by the names of grids and dtypes that a recipe uses.

    `linear` and `embedding` return a note, a whole sentence, where the storage of a tensor is not the one
    that the recipe asks for in general, and None otherwise.
    """

    linears: str = "Q4_0"
    embeddings: str = "Q8_0"
    overrides: Mapping[str, str] = field(default_factory=dict)
    """The storage of linears by pattern of their names. The first pattern that matches decides."""

    chosen: Mapping[str, str] = field(default_factory=dict)
    """The grids that a budget of bits has chosen for linears, by their names."""

    def linear(self, name: str, shape: tuple[int, ...]) -> tuple[Storage, str | None]:
        """Return the storage of a linear weight [out, in], and a note or None."""
        pattern = self.pattern(name)
        if pattern is None:
            return _storage(name, shape, self.chosen.get(name, self.linears))
        asked = self.overrides[pattern]
        storage, note = _storage(name, shape, asked)
        verb = "is stored on" if isinstance(storage, Grid) else "stays"
        return storage, note or f"{name} {verb} {asked}, as {pattern!r} asks"

    def pattern(self, name: str) -> str | None:
        """Return the pattern in `overrides` that decides for this linear, or None."""
        return next((pattern for pattern in self.overrides if fnmatchcase(name, pattern)), None)

    def embedding(self, name: str, shape: tuple[int, ...]) -> tuple[Storage, str | None]:
        """Return the storage of an embedding [rows, in], and a note or None."""
        return _storage(name, shape, self.embeddings)

    @property
    def half(self) -> torch.dtype:
        """Return the dtype of tensors that are in half precision whatever a recipe asks for: float16, or
        float32 in a layout that rounds nothing at all.
        """
        return torch.float32 if self.linears == "F32" else torch.float16

    def replaced(self, names: Mapping[str, str]) -> "Layout":
        """Return this layout with some storage names replaced by others. It drops `chosen`."""

        def other(name: str) -> str:
            return names.get(name, name)

        return Layout(
            linears=other(self.linears),
            embeddings=other(self.embeddings),
            overrides={pattern: other(asked) for pattern, asked in self.overrides.items()},
        )

    @property
    def names(self) -> list[str]:
        """Return the names of storage that this layout asks for, each once, without `chosen` and
        fallbacks.
        """
        return [*dict.fromkeys((self.linears, self.embeddings, *self.overrides.values()))]


# The layout that rounds nothing, so that solved weights stay as they are.
FULL = Layout("F32", "F32")


def _storage(name: str, shape: tuple[int, ...], asked: str) -> tuple[Storage, str | None]:
    if asked in DTYPES:
        return DTYPES[asked], None
    grid = fitting(asked, shape)
    if grid is GRIDS[asked]:
        return grid, None
    why = f"its {shape[-1]} inputs are no multiple of {asked}'s group of {GRIDS[asked].group}"
    return (
        (torch.float16, f"{name} is stored F16: {why}")
        if grid is None
        else (grid, f"{name} is stored on {grid.name}: {why}")
    )


def fitting(asked: str, shape: tuple[int, ...]) -> Grid | None:
    """Return the grid of that name, or the first of its fallbacks whose groups divide a tensor of this shape,
    or None where no grid does.
    """
    found: str | None = asked
    while found is not None and not GRIDS[found].fits(shape):
        found = FALLBACK.get(found)
    return None if found is None else GRIDS[found]


def storage_name(storage: Storage) -> str:
    """Return the name that a recipe gives a storage."""
    return (
        storage.name
        if isinstance(storage, Grid)
        else next(name for name, dtype in DTYPES.items() if dtype == storage)
    )
