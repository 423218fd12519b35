"""The differences between two runs of a calibration, in words."""

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from epmq_export.errors import Key, dotted

# How many differences are told, and how long their values may be.
FEW, SHORT = 3, 60


def difference(before: Mapping[str, Any], now: Mapping[str, Any]) -> str | None:
    """Return in words how one run differs from an earlier one, or None. Both are what decides a run's result,
    or parts of it; those that the earlier one lacks do not count.
    """
    causes = [key for key in ("recipe", "inputs", "versions") if key in before and key in now]
    # All else follows from these, but for what the command line says.
    found = [each for key in causes for each in _of_part(key, before[key], now[key])]
    if not found:
        found = [each for key in before if key in now for each in _of_value((key,), before[key], now[key])]
    more = f" and {len(found) - FEW} more" if len(found) > FEW else ""
    return "; ".join(found[:FEW]) + more if found else None


def _of_part(part: str, before: Any, now: Any) -> list[str]:  # noqa: ANN401 - JSON
    if part == "inputs":
        return [*_of_inputs(before, now)]
    if part == "recipe":
        return [f"{each} in the recipe" for each in _of_value((), before, now)]
    return [*_of_value((), before, now)]


def _of_inputs(before: Sequence[Mapping[str, str]], now: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """Yield what became of each input, by its path and its digest."""
    known, wanted = ([(each["path"], each["sha256"]) for each in inputs] for inputs in (before, now))
    for path in dict.fromkeys(path for path, _ in (*known, *wanted)):
        old, new = ([each for each in inputs if each[0] == path] for inputs in (known, wanted))
        if not old or not new:
            yield f"{path} is {'new' if new else 'gone'}"
        elif sorted(old) != sorted(new):
            yield f"{path} has changed"
    if [*dict.fromkeys(known)] != [*dict.fromkeys(wanted)] and sorted(known) == sorted(wanted):
        yield "the inputs are in another order"


def _of_value(key: Key, before: Any, now: Any) -> Iterator[str]:  # noqa: ANN401 - JSON
    """Yield how two values differ, by the ways to what differs within them."""
    if isinstance(before, dict) and isinstance(now, dict):
        for name in dict.fromkeys((*before, *now)):
            if name in before and name in now:
                yield from _of_value((*key, name), before[name], now[name])
            else:
                was, is_now = (_told(each[name]) if name in each else "not set" for each in (before, now))
                yield f"{dotted((*key, name))} was {was} and is {is_now}"
    elif isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        for place, pair in enumerate(zip(before, now, strict=True)):
            yield from _of_value((*key, place), *pair)
    elif before != now or type(before) is not type(now):
        yield f"{dotted(key)} was {_told(before)} and is {_told(now)}"


def _told(value: Any) -> str:  # noqa: ANN401 - JSON
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= SHORT else f"{text[:SHORT]}..."
