"""A merge rule's numbers, as mergekit's files write them: one for all, a gradient over the layers, or by a
part of the tensor's name.
"""

import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from epmq_export.errors import RecipeError


@dataclass(frozen=True)
class Parameter:
    """A number by tensor. Of the entries (filter, gradient), the first counts whose filter is a part of the
    tensor's name.
    """

    entries: tuple[tuple[str, tuple[float, ...]], ...]

    def at(self, tensor: str, share: float) -> float:
        """The value for a tensor of that name, `share` of the way from the first layer (0) to the last (1); a
        gradient is linear between its numbers.
        """
        gradient = next(gradient for filter_, gradient in self.entries if filter_ in tensor)
        place = share * (len(gradient) - 1)
        low = min(int(place), len(gradient) - 1)
        high = min(low + 1, len(gradient) - 1)
        return gradient[low] + (place - low) * (gradient[high] - gradient[low])

    @property
    def values(self) -> list[float]:
        return [value for _, gradient in self.entries for value in gradient]


def parameter(where: str, settings: Sequence[Any], default: float | None, flag: bool = False) -> Parameter:
    """The parameter of a recipe's settings, the first of them first, then the default; None is no setting.

    A flag is 1 or 0. RecipeError, beginning with `where`, for what is none of a number, a list of numbers,
    and {filter, value} objects (for a flag: true or false, and such objects), and where there is no default
    and the settings leave some tensors without a value.
    """
    entries = [
        entry for setting in settings if setting is not None for entry in _entries(where, setting, flag)
    ]
    if default is not None:
        entries.append(("", (default,)))
    if all(filter_ for filter_, _ in entries):
        raise RecipeError(
            f"{where} is missing{' for some tensors' if entries else ''}, expected "
            f"{'true or false' if flag else 'a number'}: it has no default"
        )
    last = next(index for index, (filter_, _) in enumerate(entries) if not filter_)
    return Parameter(tuple(entries[: last + 1]))  # what no tensor can reach is not judged


def layered(*levels: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters of several levels as one mapping, the first level's settings before the next one's: of a
    number by filter, the first that fits counts.
    """
    result: dict[str, Any] = {}
    for level in levels:
        for key, setting in level.items():
            result[key] = (
                [*_conditions(result[key]), *_conditions(setting)]
                if key in result and not _plain(result[key])
                else result.get(key, setting)
            )
    return result


def _plain(setting: Any) -> bool:  # noqa: ANN401
    """Whether a setting holds for every tensor, so that no later one counts."""
    return not isinstance(setting, dict) and not (
        isinstance(setting, list) and any(isinstance(entry, dict) for entry in setting)
    )


def _conditions(setting: Any) -> list[Any]:  # noqa: ANN401
    if _plain(setting):
        return [{"value": setting}]
    return setting if isinstance(setting, list) else [setting]


def _entries(where: str, setting: Any, flag: bool) -> list[tuple[str, tuple[float, ...]]]:  # noqa: ANN401
    read = _truth if flag else _gradient
    conditions = [setting] if isinstance(setting, dict) else setting
    if (
        not isinstance(conditions, list)
        or not conditions
        or not all(isinstance(condition, dict) for condition in conditions)
    ):
        return [("", read(where, setting))]
    entries = []
    for condition in conditions:
        unknown = sorted(set(condition) - {"filter", "value"}, key=str)
        if unknown or "value" not in condition:
            raise RecipeError(
                f"{where} has an entry {condition!r}, expected the keys value and, where it is for some "
                "tensors only, filter"
            )
        name = condition.get("filter")
        if name is not None and not isinstance(name, str):
            raise RecipeError(f"{where} has the filter {name!r}, expected a part of a tensor's name")
        entries.append(("" if name in (None, "*") else name, read(where, condition["value"])))
    return entries


def _truth(where: str, value: Any) -> tuple[float, ...]:  # noqa: ANN401
    if not isinstance(value, bool) and value not in (0, 1):
        raise RecipeError(f"{where} is {value!r}, expected true or false")
    return (float(value),)


def _gradient(where: str, value: Any) -> tuple[float, ...]:  # noqa: ANN401
    numbers = value if isinstance(value, list) else [value]
    for number in numbers:
        if (
            isinstance(number, bool)
            or not isinstance(number, int | float)
            or not abs(number) <= sys.float_info.max
        ):
            raise RecipeError(
                f"{where} is {value!r}, expected a number, a list of numbers over the layers, or a list "
                "of filter and value"
            )
    if not numbers:
        raise RecipeError(f"{where} is an empty list, expected numbers")
    return tuple(float(number) for number in numbers)
