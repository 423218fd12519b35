"""Which tensor is stored how."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

import torch

from epmq_export.grids import FALLBACK, GRIDS, Grid

DTYPES = {"F32": torch.float32, "F16": torch.float16}
Storage = Grid | torch.dtype


@dataclass(frozen=True)
class Layout:
    """Grids and dtypes by the recipe's names. With each answer comes a sentence where it is not what was
    asked for in general.
    """

    linears: str = "Q4_0"
    embeddings: str = "F16"
    overrides: Mapping[str, str] = field(default_factory=dict)
    """What linears are stored as, by pattern of their names; the first pattern that matches is the one."""

    chosen: Mapping[str, str] = field(default_factory=dict)
    """The grids of linears that a budget has spoken for, by their names."""

    def linear(self, name: str, shape: tuple[int, ...]) -> tuple[Storage, str | None]:
        pattern = self.pattern(name)
        if pattern is None:
            return _storage(name, shape, self.chosen.get(name, self.linears))
        asked = self.overrides[pattern]
        storage, note = _storage(name, shape, asked)
        verb = "is stored on" if isinstance(storage, Grid) else "stays"
        return storage, note or f"{name} {verb} {asked}, as {pattern!r} asks"

    def pattern(self, name: str) -> str | None:
        """The pattern that speaks for a linear."""
        return next((pattern for pattern in self.overrides if fnmatchcase(name, pattern)), None)

    def embedding(self, name: str, shape: tuple[int, ...]) -> tuple[Storage, str | None]:
        return _storage(name, shape, self.embeddings)

    @property
    def half(self) -> torch.dtype:
        """Of what is stored in half precision whatever a recipe asks for; float32 where nothing at all is
        rounded.
        """
        return torch.float32 if self.linears == "F32" else torch.float16

    def replaced(self, names: Mapping[str, str]) -> "Layout":
        """With other names in place of some."""

        def other(name: str) -> str:
            return names.get(name, name)

        return Layout(
            other(self.linears),
            other(self.embeddings),
            {pattern: other(asked) for pattern, asked in self.overrides.items()},
        )

    @property
    def names(self) -> list[str]:
        """What it stores tensors as, each once, but for fallbacks."""
        return [*dict.fromkeys((self.linears, self.embeddings, *self.overrides.values()))]


# Nothing rounded: the solves as they are.
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
    """The grid of that name, or the first of its fallbacks that divides a tensor's inputs into whole
    groups.
    """
    found: str | None = asked
    while found is not None and not GRIDS[found].fits(shape):
        found = FALLBACK.get(found)
    return None if found is None else GRIDS[found]


def storage_name(storage: Storage) -> str:
    return (
        storage.name
        if isinstance(storage, Grid)
        else next(name for name, dtype in DTYPES.items() if dtype == storage)
    )
