"""Tensors by name, read when asked for: the protocols, and sources that are made from others."""

from collections.abc import Callable, Collection, Iterable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from epmq_export.errors import InputError
from epmq_export.tensors.low_rank import Change, low_rank_change


class TensorSource(Protocol):
    """Tensors by canonical name, read when asked for and never kept."""

    def names(self) -> Sequence[str]: ...

    def shape(self, name: str) -> tuple[int, ...]: ...

    def load(self, name: str) -> Tensor:
        """Return the tensor on the CPU in its stored dtype, a copy that the caller owns.

        Raises InputError where the source has no tensor of that name.
        """
        ...


class TypedSource(TensorSource, Protocol):
    """A `TensorSource` that knows each tensor's dtype without reading the tensor."""

    def dtype(self, name: str) -> torch.dtype:
        """Return the dtype of what `load` will return. Raises InputError where there is no tensor of that
        name.
        """
        ...


RowReader = Callable[[int, int], Tensor]
"""A function that returns the rows of a tensor from one up to another. They may be the file itself, so that
who changes them copies them first.
"""


def row_reader(source: object, name: str) -> RowReader | None:
    """Return the reader of a tensor's rows, or None where the source reads tensors whole."""
    reader = getattr(source, "row_reader", None)
    return None if reader is None else reader(name)


class Passed:
    """Another source's tensors as they are, for classes that tell more of them."""

    def __init__(self, source: TypedSource) -> None:
        self._source = source

    def names(self) -> list[str]:
        return [*self._source.names()]

    def shape(self, name: str) -> tuple[int, ...]:
        return self._source.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._source.dtype(name)

    def load(self, name: str) -> Tensor:
        return self._source.load(name)

    def row_reader(self, name: str) -> RowReader | None:
        return row_reader(self._source, name)

    def low_rank_change(self, name: str) -> Change | None:
        return low_rank_change(self._source, name)


class Renamed:
    """A source under other names."""

    def __init__(self, source: TypedSource, originals: dict[str, str]) -> None:
        self._source, self._originals = source, originals

    def names(self) -> list[str]:
        return sorted(self._originals)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._source.shape(self._original(name))

    def dtype(self, name: str) -> torch.dtype:
        return self._source.dtype(self._original(name))

    def load(self, name: str) -> Tensor:
        return self._source.load(self._original(name))

    def row_reader(self, name: str) -> RowReader | None:
        return row_reader(self._source, self._original(name))

    def low_rank_change(self, name: str) -> Change | None:
        return low_rank_change(self._source, self._original(name))

    def _original(self, name: str) -> str:
        if name not in self._originals:
            raise InputError(
                f"no tensor {name}; there are {len(self._originals)}, such as "
                f"{', '.join(list(self._originals)[:3])}"
            )
        return self._originals[name]


def without(source: TypedSource, names: Collection[str]) -> TypedSource:
    """Return the source without some of its tensors."""
    return only(source, set(source.names()).difference(names)) if names else source


def only(source: TypedSource, names: Iterable[str]) -> Renamed:
    """Return the source with some of its tensors alone."""
    return Renamed(source, {name: name for name in names})


def renamed(source: TypedSource, canonical: Callable[[str], str | None]) -> Renamed:
    """Return the source with each name passed through `canonical`, without the tensors that it maps to None.

    A tensor may be stored twice under two names, as tied embeddings are. Raises InputError where two tensors
    that differ get the same name.
    """
    originals: dict[str, str] = {}
    for name in source.names():
        new = canonical(name)
        if new is None:
            continue
        if new in originals and not same_values(source, originals[new], name):
            where = getattr(source, "location", "the model")
            raise InputError(
                f"{where}: tensors {originals[new]} and {name} are both {new} and differ; expected one of "
                "them, or two that are equal"
            )
        originals[new] = name
    return Renamed(source, originals)


def same_values(source: TypedSource, one: str, other: str) -> bool:
    """Return whether two tensors of a source are equal."""
    return source.shape(one) == source.shape(other) and torch.equal(source.load(one), source.load(other))


class Joined:
    """Several sources as one. Of a tensor that several have, the last one counts."""

    def __init__(self, parts: Sequence[TypedSource]) -> None:
        self._parts = {name: part for part in parts for name in part.names()}

    def names(self) -> list[str]:
        return sorted(self._parts)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._part(name).shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._part(name).dtype(name)

    def load(self, name: str) -> Tensor:
        return self._part(name).load(name)

    def row_reader(self, name: str) -> RowReader | None:
        return row_reader(self._part(name), name)

    def low_rank_change(self, name: str) -> Change | None:
        return low_rank_change(self._part(name), name)

    def _part(self, name: str) -> TypedSource:
        if name not in self._parts:
            raise InputError(f"no tensor {name}; there are {len(self._parts)}")
        return self._parts[name]
