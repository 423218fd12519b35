"""The place of one model's tensors among another's: a way to read their names after which they are there, in
their shapes.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from epmq_export.tensors.naming import Naming

Shape = tuple[int, ...]
# More parts than that stand before no model's layers.
_DEPTH = 4


@dataclass(frozen=True)
class Place:
    """A way to read names: without a first part, and with another."""

    drop: str = ""
    add: str = ""

    def __call__(self, name: str) -> str:
        return self.add + name.removeprefix(self.drop)

    def __str__(self) -> str:
        return repr(self.add) if self.add else "no first part"


@dataclass(frozen=True)
class Known:
    """The tensors of a model, by their plain names, and how names are read in it."""

    shapes: Mapping[str, Shape]
    naming: Naming

    def at(self, place: Place, name: str, shape: Shape) -> str | None:
        """Return the tensor that a name stands for in a place; None where there is none of that shape."""
        there = self.naming.plain(place(name))
        return there if self.shapes.get(there) == shape else None

    def places(self, names: Mapping[str, Shape]) -> list[Place]:
        """Return the ways to read names, each with its shape, after which as many as can be
        are here, and all that a model of the kind has but for its heads.

        Names that are here as they stand are taken so. Else a first part of theirs is left out, or one of the
        names here is put before them, or one in the place of the other. Of ways that read all names alike,
        the first is returned.
        """
        drops, adds = _beginnings(names), _beginnings(self.shapes)
        most, best = 0, dict[tuple[str | None, ...], Place]()
        for tier in (
            [Place()],
            [Place(drop=drop) for drop in drops],
            [Place(add=add) for add in adds],
            [Place(drop, add) for drop in drops for add in adds],
        ):
            found = {read: place for place in reversed(tier) if (read := self._read(place, names))}
            count = max((_count(read) for read in found), default=0)
            if count > most:
                most, best = count, {read: each for read, each in found.items() if _count(read) == count}
            if most == len(names):
                break
        return list(best.values())[::-1]

    def covering(self, names: Mapping[str, Shape]) -> list[Place]:
        """Return the ways to read names of a whole model after which the most of these tensors are there: as
        they stand, or without a first part, or with one.

        Whatever then has a name that a model of the kind needs must be here in its shape. There are none
        where nothing is here.
        """
        tries = [Place(), *(Place(drop=drop) for drop in _beginnings(names))]
        tries += [Place(add=add) for add in _beginnings(self.shapes)]
        found: dict[frozenset[tuple[str, str]], Place] = {}
        for place in tries:
            found.setdefault(self._covered(place, names), place)
        most = max(map(len, found))
        best = [place for read, place in found.items() if len(read) == most > 0]
        return best[:1] if best[:1] == [Place()] else best

    def _covered(self, place: Place, names: Mapping[str, Shape]) -> frozenset[tuple[str, str]]:
        """Return the names, read so, that are of these tensors, with the tensors; none where others are
        beside them.
        """
        here = set[tuple[str, str]]()
        for name, shape in names.items():
            if not name.startswith(place.drop):
                continue
            there = self.at(place, name, shape)
            if there is not None:
                here.add((name, there))
            elif place != Place() and self.naming.needs(self.naming.plain(place(name))):
                return frozenset()
        return frozenset(here)

    def _read(self, place: Place, names: Mapping[str, Shape]) -> tuple[str | None, ...]:
        """Return the tensor that each name stands for, None for one of a head; an empty tuple where that
        leaves one without its tensor, or two with the same.
        """
        read: list[str | None] = []
        for name, shape in names.items():
            there = self.at(place, name, shape)
            plain = self.naming.plain(place(name))
            if there is None and (plain in self.shapes or self.naming.needs(plain)):
                return ()
            read.append(there)
        known = [name for name in read if name is not None]
        return tuple(read) if len(set(known)) == len(known) else ()


def _count(read: Sequence[str | None]) -> int:
    return sum(name is not None for name in read)


def _beginnings(names: Collection[str]) -> Sequence[str]:
    """Return the beginnings of names up to a dot, before any number, the shortest first."""
    found: set[str] = set()
    for name in names:
        parts = name.split(".")[:-1]
        for end in range(1, min(len(parts), _DEPTH) + 1):
            if parts[end - 1].isdigit():
                break
            found.add(".".join(parts[:end]) + ".")
    return sorted(found, key=lambda each: (each.count("."), each))
