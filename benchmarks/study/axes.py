"""What the study measures: which of the method's numbers, at which values."""

from collections.abc import Iterator, Sequence
from typing import Any

# What a row is without a word: the default merge and method on the eight tasks, each expert listed once.
USUAL: dict[str, Any] = {
    "rule": "tsvm",
    "tasks": 8,
    "copies": 1,
    "samples": 32,
    "length": 1.0,
    "alpha": 0.5,
    "lambda": 0.1,
}
AXES: dict[str, list[dict[str, Any]]] = {
    # Lengths are shares of the automatic one.
    "length": [
        {"rule": rule, "length": x}
        for rule in ("tsvm", "task_arithmetic")
        for x in (1.0, 0.25, 0.5, 0.7, 1.4, 2.0)
    ]
    + [{"tasks": n, "length": x} for n in (4, 2) for x in (0.25, 0.5, 1.0, 1.4, 2.0)],
    "direction": [{"rule": rule} for rule in ("ties", "iso_c", "iso_cts")]
    + [{"rule": rule, "tasks": n} for n in (4, 2) for rule in ("task_arithmetic", "iso_c")],
    "copies": [
        {"rule": "task_arithmetic", "tasks": 4},
        *({"rule": "task_arithmetic", "tasks": 4, "copies": 3, "length": x} for x in (1.0, 3.0)),
    ],
    "samples": [{"samples": x} for x in (8, 16, 64)],
    "alpha": [{"alpha": x} for x in (0.0, 0.25, 0.75, 1.0)],
    "lambda": [{"lambda": x} for x in (0.02, 0.5)],
    "wudi": [{"rule": "wudi"}],
}


def planned(axes: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield the rows along some axes, the usual one first, each once."""
    seen = []
    for axis in axes:
        for row in [{}, *AXES[axis]]:
            whole = {**USUAL, **row}
            if whole not in seen:
                seen.append(whole)
                yield whole
