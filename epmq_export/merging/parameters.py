"""The numbers of a merge rule, as mergekit's files write them: one for all tensors, a gradient over the
layers, or a number for tensors with a certain part in their name.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from epmq_export.errors import Key, SettingError


@dataclass(frozen=True)
class Level:
    """Parameters that stand in one place of a recipe: those of a model, a slice, a module, or the whole
    recipe.
    """

    parameters: Mapping[str, Any] = field(default_factory=dict)
    key: Key = ("parameters",)

    def place(self, name: str) -> Key:
        """Return the key of a parameter at this level, written or not."""
        return (*self.key, name)


@dataclass(frozen=True)
class Entry:
    """A number for some tensors."""

    key: Key
    """The place where the recipe gives it; for a default, the place where it could be given."""

    filter: str
    """A part of the names of its tensors; empty for all of them."""

    gradient: tuple[float, ...]
    """The values from the first layer to the last: one or more numbers."""


@dataclass(frozen=True)
class Parameter:
    """A number for each tensor. The first entry whose filter is a part of the tensor's name decides."""

    entries: tuple[Entry, ...]

    def at(self, tensor: str, share: float) -> float:
        """Return the value for a tensor of that name, `share` of the way from the first layer (0) to the last
        (1).

        A gradient is linear between its numbers.
        """
        gradient = self._entry(tensor).gradient
        place = share * (len(gradient) - 1)
        low = min(int(place), len(gradient) - 1)
        high = min(low + 1, len(gradient) - 1)
        return gradient[low] + (place - low) * (gradient[high] - gradient[low])

    def key_at(self, tensor: str) -> Key:
        """Return the key at which the recipe gives the value for a tensor of that name."""
        return self._entry(tensor).key

    def _entry(self, tensor: str) -> Entry:
        return next(entry for entry in self.entries if entry.filter in tensor)

    @property
    def values(self) -> list[float]:
        """Return every number that some tensor may get."""
        return [value for entry in self.entries for value in entry.gradient]


def parameter(
    where: str, name: str, levels: Sequence[Level], default: float | None, flag: bool = False
) -> Parameter:
    """Return a parameter from the levels of a recipe, the first of them first, and then the default.

    A flag is 1 or 0. Raises SettingError, its sentence beginning with `where`, for a value that is not a
    number, a list of numbers, or {filter, value} objects (for a flag: true or false, or such objects), and
    where there is no default and the levels leave some tensors without a value.
    """
    entries: list[Entry] = []
    for level in levels:
        if level.parameters.get(name) is not None:
            entries += _entries(level.place(name), where, level.parameters[name], flag)
    last = levels[-1].place(name)
    if default is not None:
        entries.append(Entry(last, "", (default,)))
    if all(entry.filter for entry in entries):
        raise SettingError(
            entries[0].key if entries else last,
            f"{where} is missing{' for some tensors' if entries else ''}, expected "
            f"{'true or false' if flag else 'a number'}: it has no default",
        )
    reached = next(index for index, entry in enumerate(entries) if not entry.filter)
    # Entries that no tensor can reach are dropped, so that their range is not checked.
    return Parameter(tuple(entries[: reached + 1]))


def _entries(key: Key, where: str, setting: Any, flag: bool) -> list[Entry]:  # noqa: ANN401
    read = _truth if flag else _gradient
    conditions = [setting] if isinstance(setting, dict) else setting
    if (
        not isinstance(conditions, list)
        or not conditions
        or not all(isinstance(condition, dict) for condition in conditions)
    ):
        return [Entry(key, "", read(key, where, setting))]
    entries = []
    for condition in conditions:
        unknown = sorted(set(condition) - {"filter", "value"}, key=str)
        if unknown or "value" not in condition:
            raise SettingError(
                key,
                f"{where} has an entry {condition!r}, expected the keys value and, where it is for some "
                "tensors only, filter",
            )
        name = condition.get("filter")
        if name is not None and not isinstance(name, str):
            raise SettingError(key, f"{where} has the filter {name!r}, expected a part of a tensor's name")
        entries.append(Entry(key, "" if name in (None, "*") else name, read(key, where, condition["value"])))
    return entries


def _truth(key: Key, where: str, value: Any) -> tuple[float, ...]:  # noqa: ANN401
    if not isinstance(value, bool) and value not in (0, 1):
        raise SettingError(key, f"{where} is {value!r}, expected true or false")
    return (float(value),)


def _gradient(key: Key, where: str, value: Any) -> tuple[float, ...]:  # noqa: ANN401
    numbers = value if isinstance(value, list) else [value]
    for number in numbers:
        if (
            isinstance(number, bool)
            or not isinstance(number, int | float)
            or not abs(number) <= sys.float_info.max
        ):
            raise SettingError(
                key,
                f"{where} is {value!r}, expected a number, a list of numbers over the layers, or a list "
                "of filter and value",
            )
    if not numbers:
        raise SettingError(key, f"{where} is an empty list, expected numbers")
    return tuple(float(number) for number in numbers)
