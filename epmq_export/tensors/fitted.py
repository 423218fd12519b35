"""An expert under the names of its base, and the one way in which both are read: what wrappers put before
names does not count, nor do other names of the same tensor, nor what only one of them stores of a head.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import torch
from torch import Tensor

from epmq_export.errors import InputError
from epmq_export.tensors.naming import Naming, is_buffer, unwrapped
from epmq_export.tensors.placement import Known, Place
from epmq_export.tensors.source import Joined, Renamed, TypedSource, same_values
from epmq_export.tensors.stacked import Unstacked


class Named(TypedSource, Protocol):
    """A model of which it is known where it lies and what it calls its tensors."""

    location: str
    naming: Naming


def read(stored: TypedSource, naming: Naming, where: str | Path) -> Renamed:
    """Return a model without what wrappers put before its names, with each expert's matrices of a mixture
    apart, and without a head that is said to be the embeddings and is.

    Raises InputError where two tensors that differ get the same name.
    """
    stored = Unstacked(stored, naming.stacks, str(where)) if naming.stacks else stored
    originals: dict[str, str] = {}
    for name, short in unwrapped(stored.names(), naming).items():
        if short.endswith("attn.bias") and len(stored.shape(name)) == 4:
            continue  # GPT-2's mask of what a token may see, which is no bias.
        if short in originals and not same_values(stored, originals[short], name):
            raise InputError(
                f"{where}: tensors {originals[short]} and {name} are both {short} and differ; expected one "
                "of them, or two that are equal"
            )
        originals[short] = name
    ties = naming.ties
    if ties is not None and ties.tied:
        head, table = ties.pair({naming.plain(short): short for short in originals})
        if head and table and same_values(stored, originals[head], originals[table]):
            del originals[head]
    return Renamed(stored, originals)


@dataclass(frozen=True)
class Fit:
    """An expert's tensors under the names of the base."""

    source: TypedSource
    originals: Mapping[str, str]
    """The expert's own name of each tensor that it gives."""

    notes: Sequence[str]
    """What of either is not merged, a sentence each."""


def fit(base: Named, expert: Named) -> Fit:
    """Return an expert under the names of the base.

    A tensor of a head that the expert has not, or has in another shape, is the base's; what only the expert
    has of a head is left out. What else differs stays as it is, for a check to find. Only headers are read.
    """
    naming = base.naming
    ours = {naming.plain(name): name for name in base.names()}
    place = _place(base, expert, ours)
    theirs = {naming.plain(place(name)): name for name in expert.names() if name.startswith(place.drop)}
    taken, kept = dict[str, str](), list[str]()
    for plain, name in ours.items():
        head = not naming.needs(plain)
        if plain in theirs and not (head and base.shape(name) != expert.shape(theirs[plain])):
            taken[name] = theirs[plain]
        elif head:
            kept.append(name)
        elif (table := _tied_to(plain, expert.naming, theirs)) is not None:
            taken[name] = table
    left = sorted(set(expert.names()) - set(taken.values()))
    more = {plain: name for plain, name in theirs.items() if name in left and naming.needs(plain)}
    originals = {**more, **taken}
    source: TypedSource = Renamed(expert, originals)
    if kept:
        source = Joined([Renamed(base, {name: name for name in kept}), source])
    told = [name for name in left if name not in more.values() and not is_buffer(name)]
    kept = [name for name in kept if not is_buffer(name)]
    return Fit(source, originals, _notes(expert.location, place, kept, told))


def _place(base: Named, expert: Named, ours: Mapping[str, str]) -> Place:
    """Return the way to read an expert's names in which they are those of the base: as they are, where that
    cannot be told.
    """
    naming = base.naming
    shapes = {plain: base.shape(name) for plain, name in ours.items() if naming.needs(plain)}
    known = Known(shapes, naming)
    own = {name: expert.shape(name) for name in expert.names() if expert.dtype(name).is_floating_point}
    found = known.covering(own)
    if len(found) > 1:
        places = " and ".join(f"{place.drop or place.add!r}" for place in found[:2])
        raise InputError(
            f"{expert.location}: found tensors that fit the base with names that begin with {places}, "
            "expected one model"
        )
    return found[0] if found else Place()


def _tied_to(plain: str, naming: Naming, theirs: Mapping[str, str]) -> str | None:
    """Return the embeddings of a model whose head they are, where a name is the head's."""
    ties = naming.ties
    return ties.pair(theirs)[1] if ties is not None and ties.tied and plain == ties.head else None


def _notes(location: str, place: Place, kept: Sequence[str], left: Sequence[str]) -> list[str]:
    notes = []
    if place.drop:
        notes.append(f"{location}: its names are read without {place.drop!r}, which stands before the base's")
    if kept:
        notes.append(f"{location} has none of {_some(kept)} in the base's shape: it stays the base's")
    return [*notes, *left_out(location, left)]


def left_out(location: str, names: Sequence[str]) -> list[str]:
    """Return a sentence for a model's tensors that the base has no place for, where there are any."""
    return [f"{location}: {_some(names)} is of no part of the base, and not merged"] if names else []


def _some(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{names[0]} ({len(names)} such tensors)"


def with_own_head(model: TypedSource, naming: Naming) -> TypedSource:
    """Return a model with a head of its own: its embeddings again, where it stores none."""
    ties = naming.ties
    if ties is None:
        return model
    head, table = ties.pair({naming.plain(name): name for name in model.names()})
    if head is not None or table is None:
        return model
    return Renamed(model, {**{name: name for name in model.names()}, ties.head: table})


def has_own_head(model: TypedSource, naming: Naming) -> bool:
    """Return whether a model of a kind whose head may be its embeddings has one of its own."""
    return naming.ties is not None and any(naming.plain(name) == naming.ties.head for name in model.names())


def is_equal(base: TypedSource, expert: TypedSource, names: Sequence[str]) -> bool:
    """Return whether two models have some tensors and are equal in them. Reading ends at the first
    difference.
    """
    return set(names) <= set(expert.names()) and all(
        torch.equal(_float(base, name), _float(expert, name)) for name in names
    )


def _float(model: TypedSource, name: str) -> Tensor:
    return model.load(name).float()
