"""report.json: what was done and how good it is (report.schema.json has every key)."""

import json
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import PackageNotFoundError, version
from math import prod
from pathlib import Path
from typing import Any

from epmq_export import files
from epmq_export.grids import Grid
from epmq_export.grids.layout import DTYPES
from epmq_export.tensors.packed import Packed
from epmq_export.verification.verdict import Verdict

FORMAT = "epmq-report-2"
SCHEMA = Path(__file__).with_name("report.schema.json")


@dataclass
class Report:
    """The report of a run. Parts that no stage has given are empty."""

    packed: Packed
    apart: Mapping[str, Packed | None]
    """For each format that cannot hold every grid, the packed checkpoint of its own that its file was written
    from, or None where it shares `packed`.
    """

    packages: Sequence[str]
    """The packages of the formats and runtimes. The report has their versions where they are installed."""

    verdict: Verdict
    recipe: Path | None
    base: Path | None = None
    """The directory of the base model, where another one stood in for that which the recipe names."""

    seconds: Mapping[str, float] = field(default_factory=dict)
    """The seconds that each stage took, by its name."""

    def as_dict(self) -> dict[str, Any]:
        """Return the content of report.json."""
        index, recipe = self.packed.index, None
        if self.recipe is not None:
            recipe = {"path": str(self.recipe.absolute()), "sha256": files.sha256(self.recipe)}
            recipe |= {} if self.base is None else {"base": str(self.base)}
        verdict = self.verdict
        own = {name: None if packed is None else _calibrated(packed) for name, packed in self.apart.items()}
        return {
            "format": FORMAT,
            "about": index.about.as_dict(),
            "verdict": verdict.outcome.value,
            "broken": list(verdict.broken),
            "warnings": list(verdict.warnings),
            "tasks": list(next(iter(verdict.lines.values()), {})),
            "evaluated": dict(verdict.evaluated),
            "scores": dict(verdict.scores),
            "intervals": {
                row: {task: list(ends) for task, ends in intervals.items()}
                for row, intervals in verdict.intervals.items()
            },
            "answers": {
                row: {task: each.as_json() for task, each in lines.items()}
                for row, lines in verdict.lines.items()
            },
            "files": [file.as_dict() for file in verdict.files],
            **_calibrated(self.packed),
            **own,
            "method": index.method,
            "search": index.search,
            "recipe": {"file": recipe, "content": index.recipe},
            "inputs": index.inputs,
            "versions": {**index.versions, **_versions(self.packages)},
            "seconds": dict(self.seconds),
            "peak_memory_bytes": peak_memory(),
        }

    def write(self, path: Path) -> None:
        """Write report.json, whole or not at all."""
        with files.whole(path) as built:
            built.write_text(
                json.dumps(self.as_dict(), indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
            )


def _calibrated(packed: Packed) -> dict[str, Any]:
    """Return what the report tells of a packed checkpoint: losses, tensors, and notes."""
    told = {"layers": packed.index.layers, "notes": packed.index.notes}
    return told | {"tensors": [_tensor(packed, name) for name in packed.names()]}


def _tensor(packed: Packed, name: str) -> dict[str, Any]:
    """Return what holds a tensor, without reading its values."""
    storage, shape = packed.storage(name), packed.shape(name)
    bits = storage.bits_per_weight if isinstance(storage, Grid) else 8 * storage.itemsize
    return {
        "tensor": name,
        "storage": storage.name if isinstance(storage, Grid) else _TYPES.get(storage, str(storage)),
        "shape": list(shape),
        "bytes": round(prod(shape) * bits / 8),
    }


_TYPES = {dtype: name for name, dtype in DTYPES.items()}
"""The names of dtypes, as a recipe's `quantization` has them."""


def peak_memory() -> int | None:
    """Return the most resident memory that this process has had, in bytes, without that of runtimes in
    subprocesses, or None where the system does not tell it.
    """
    try:
        import resource
    except ImportError:  # Windows
        return None
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _versions(packages: Sequence[str]) -> dict[str, str]:
    found = {}
    for package in packages:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found
