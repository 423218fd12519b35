"""The targets of a recipe: the formats that share one calibration, and the grids that each calibration rounds
to.

Formats whose grids do not hold what the recipe asks for get a calibration of their own, on other grids.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from epmq_export.errors import RecipeError
from epmq_export.grids import BUDGET, BY_NAME_ONLY, GRIDS
from epmq_export.models.family import Family
from epmq_export.models.format import Format
from epmq_export.pipeline.requirements import require_readable
from epmq_export.recipe.recipe import Recipe

WIDE = "Q8_0"
"""The grid that replaces one of more than 4 bits. Every format holds it."""

PACKED = "packed"
"""The directory, in a run's output, of the packed checkpoint that tasks are compared with."""


FULL_PRECISION = "safetensors"
"""The format of a calibrated merge in which nothing is rounded."""


@dataclass(frozen=True)
class Target:
    """One calibration: the grids that it rounds to, and the formats that are written from it."""

    formats: tuple[str, ...]
    replaced: Mapping[str, str] = field(default_factory=dict)
    """The grids that the recipe asks for and these formats cannot hold, each with the grid that replaces
    it.
    """

    candidates: tuple[str, ...] = ()
    """The grids that a budget of bits or of bytes chooses from."""

    writers: tuple[Format, ...] = ()
    """The formats themselves."""

    directory: str = PACKED
    """The directory of its packed checkpoint, relative to the output of a run."""


def held(family: Family, format: Format) -> list[str]:
    """Return the names of the grids that a family's files of a format can hold and their runtimes can
    decode.
    """
    known = family.exports[format.name].grids
    return [
        name
        for name, grid in GRIDS.items()
        if name in format.grids and (known is None or grid.file_type in known)
    ]


def _replaced(recipe: Recipe, format: str, known: Collection[str]) -> dict[str, str]:
    """Return the grids that the recipe asks for and a format does not hold, each with the grid that replaces
    it.
    """
    stand_in = recipe.quantization.stand_in(format)
    if stand_in is None:
        return {}
    lacking = [name for name in recipe.quantization.layout.names if name in GRIDS and name not in known]
    return {name: stand_in if GRIDS[name].bits <= 4 else WIDE for name in lacking}


def targets(
    recipe: Recipe, family: Family, formats: Mapping[str, Format], names: Sequence[str]
) -> list[Target]:
    """Return the calibrations that a recipe's formats need, the one that holds the most grids first."""
    by_grids: dict[tuple[object, ...], Target] = {}
    for name in sorted(names, key=lambda name: -len(held(family, formats[name]))):
        known = held(family, formats[name])
        replaced = _replaced(recipe, name, known)
        candidates = tuple(each for each in known if each not in BY_NAME_ONLY)
        candidates = BUDGET if set(BUDGET) <= set(known) else candidates
        key = (*replaced.items(), candidates if recipe.quantization.chooses else None)
        directory = PACKED if not by_grids else f"{PACKED}-{name}"
        new = Target(formats=(), replaced=replaced, candidates=candidates, directory=directory)
        target = by_grids.setdefault(key, new)
        by_grids[key] = replace(
            target, formats=(*target.formats, name), writers=(*target.writers, formats[name])
        )
    return list(by_grids.values())


def target_of(recipe: Recipe, family: Family, formats: Mapping[str, Format], name: str) -> Target | None:
    """Return the calibration for one format, by its name; None for full precision.

    Raises RecipeError where the family cannot be written in the format, or its runtimes cannot decode a grid.
    """
    if name == FULL_PRECISION:
        return None
    if name not in family.exports:
        known = " or ".join(dict.fromkeys((*family.exports, FULL_PRECISION)))
        raise RecipeError(f"--format {name}: family {family.name} cannot be written in it, expected {known}")
    require_readable(recipe, family, [name])
    (target,) = targets(recipe, family, formats, [name])
    return target
