"""Which formats share one calibration, and what each calibration rounds to.

Formats whose grids do not hold what the recipe asks for are calibrated apart, on grids that stand in.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field

from epmq_export.grids import BUDGET, GRIDS
from epmq_export.models.family import Family
from epmq_export.models.format import Format
from epmq_export.recipe.recipe import Recipe

WIDE = "Q8_0"
"""What stands in for a grid of more than 4 bits: every format holds it."""

PACKED = "packed"
"""The directory, in a run's output, of the packed checkpoint that tasks are referred to."""


@dataclass(frozen=True)
class Target:
    """One calibration: what it rounds to, and the formats that are written from it."""

    formats: tuple[str, ...]
    replaced: Mapping[str, str] = field(default_factory=dict)
    """Grids that the recipe asks for and these formats cannot hold, each with what stands in for it."""

    candidates: tuple[str, ...] = ()
    """The grids that a budget of bits chooses from."""

    directory: str = PACKED
    """Where a run keeps its packed checkpoint, relative to the output."""


def held(family: Family, format: Format) -> list[str]:
    """Return the names of the grids that a family's files of a format can hold, and their runtimes decode."""
    known = family.exports[format.name].grids
    return [
        name
        for name, grid in GRIDS.items()
        if name in format.grids and (known is None or grid.file_type in known)
    ]


def _replaced(recipe: Recipe, format: str, known: Collection[str]) -> dict[str, str]:
    """Return the grids that the recipe asks for and a format does not hold, with what stands in for each."""
    stand_in = recipe.quantization.stand_in(format)
    if stand_in is None:
        return {}
    lacking = [name for name in recipe.quantization.layout.names if name in GRIDS and name not in known]
    return {name: stand_in if GRIDS[name].bits <= 4 else WIDE for name in lacking}


def targets(
    recipe: Recipe, family: Family, formats: Mapping[str, Format], names: Sequence[str]
) -> list[Target]:
    """Return the calibrations that a recipe's formats take, the one that holds the most grids first."""
    by_grids: dict[tuple[object, ...], Target] = {}
    for name in sorted(names, key=lambda name: -len(held(family, formats[name]))):
        known = held(family, formats[name])
        replaced = _replaced(recipe, name, known)
        candidates = tuple(BUDGET if set(BUDGET) <= set(known) else known)
        key = (*replaced.items(), candidates if recipe.quantization.bits is not None else None)
        directory = PACKED if not by_grids else f"{PACKED}-{name}"
        target = by_grids.setdefault(key, Target((), replaced, candidates, directory))
        by_grids[key] = Target((*target.formats, name), replaced, candidates, target.directory)
    return list(by_grids.values())
