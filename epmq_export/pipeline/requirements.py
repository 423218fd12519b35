"""Checks that come before the work, of everything that would fail after it."""

from collections.abc import Callable, Sequence
from fnmatch import fnmatchcase

from epmq_export.calibration.storage import carried_linears
from epmq_export.data.images import FILES
from epmq_export.errors import InputError, Key
from epmq_export.grids import GRIDS
from epmq_export.models.blocks import alike, linears
from epmq_export.models.family import Export, Family, default_formats, heads_of
from epmq_export.models.samples import Pair
from epmq_export.recipe.recipe import FORMATS, Recipe
from epmq_export.recipe.task import RecipeData, no_pairs


def formats_of(recipe: Recipe, family: Family) -> list[str]:
    """Return the formats that are to be written: those of the recipe, or all that the family can be written
    in.
    """
    return recipe.export.formats or default_formats(family)


def require_formats(recipe: Recipe, family: Family) -> None:
    """Raise RecipeError for a format that the family cannot be written in, and for a task that the family
    cannot be scored on.
    """
    if lacking := [name for name in recipe.export.formats or () if name not in family.exports]:
        raise recipe.mistake(
            ("export", "formats"),
            (
                f"found {lacking[0]}, which family {family.name} cannot be written in, expected "
                f"{', '.join(name for name in family.exports if name in FORMATS)}"
            ),
        )
    if recipe.export.split_size is not None:
        _require_split(recipe, family)
    _require_clients(recipe, family)
    language = family.language is not None
    for name, task in recipe.tasks.items():
        if family.images is not None and task.prompt != "{}":
            raise recipe.mistake(
                ("tasks", name, "prompt"),
                f"found it set, expected the key left out: family {family.name} reads images",
            )
        if language and (key := "head" if task.head is not None else "templates" if task.templates else None):
            raise recipe.mistake(
                ("tasks", name, key),
                f"found it set, expected prompt and labels: family {family.name} is asked in words",
            )
        if (
            not language
            and family.zero_shot is None
            and not heads_of(family)
            and (task.labels or task.templates)
            and task.head is None
        ):
            raise recipe.mistake(
                ("tasks", name, "head"),
                f"found nothing, expected a linear head: family {family.name} embeds no label texts",
            )


def _require_clients(recipe: Recipe, family: Family) -> None:
    """Raise RecipeError for a client that opens none of the files that are written."""
    known = [name for format in formats_of(recipe, family) for name in family.exports[format].clients]
    expected = " or ".join(dict.fromkeys(known)) or "the key left out"
    for name in recipe.verify.clients:
        if name not in known:
            raise recipe.mistake(
                ("verify", "clients"),
                f"found {name}, which opens none of the files that are written, expected {expected}",
            )


def _require_split(recipe: Recipe, family: Family) -> None:
    """Raise RecipeError where no file is written that may lie in parts."""
    splitting = [name for name, export in family.exports.items() if export.splits]
    if not set(splitting) & set(formats_of(recipe, family)):
        formats = " or ".join(name.upper() for name in splitting)
        why = (
            f"no {formats} file is written"
            if splitting
            else f"no runtime reads a model of family {family.name} in parts"
        )
        raise recipe.mistake(("export", "split_size"), f"found it set, expected the key left out: {why}")


def require_readable(recipe: Recipe, family: Family, names: Sequence[str]) -> None:
    """Raise RecipeError where the recipe asks for a grid that the runtimes of one of the formats cannot
    decode, or no pairs of texts, and InputError where they cannot read the model at all.
    """
    pairs = next((name for name, task in recipe.tasks.items() if task.pairs), None)
    for format in names:
        export = family.exports[format]
        export.require()
        _require_grids(recipe, format, export)
        if pairs is not None and export.joined is not None:
            _require_joined(recipe, pairs, export.joined, family)


def _require_joined(recipe: Recipe, name: str, joined: Callable[[Pair], str], family: Family) -> None:
    """Raise RecipeError where no text stands for a pair of a task."""
    try:
        joined(Pair("a text", "another one"))
    except InputError as error:
        raise recipe.mistake(("tasks", name), str(error).removeprefix(f"{family.directory}: ")) from None


def _require_grids(recipe: Recipe, format: str, export: Export) -> None:
    """Raise RecipeError where the recipe asks for a grid that the runtimes of a format cannot decode."""
    if (known := export.grids) is None:
        return
    quantization = recipe.quantization
    asked: dict[tuple[str, ...], str] = {
        ("grid",): quantization.grid,
        ("embeddings",): quantization.embeddings,
    }
    asked |= {("overrides", pattern): storage for pattern, storage in quantization.overrides.items()}
    for key, name in asked.items():
        if name in GRIDS and GRIDS[name].file_type not in known:
            expected = ", ".join(each for each, grid in GRIDS.items() if grid.file_type in known)
            raise recipe.mistake(
                ("quantization", *key),
                f"found {name}, which {export.runtimes[0]} cannot read in {format.upper()}, expected one of "
                f"{expected}, or export.formats without {format}",
            )


def require_matches(recipe: Recipe, family: Family) -> None:
    """Raise RecipeError for a pattern that matches no linear, or a part of what is stored as one."""
    names = [*linears(family), *carried_linears(family)]
    quantization = recipe.quantization
    patterns: list[tuple[Key, str]] = [
        (("quantization", "keep", i), pattern) for i, pattern in enumerate(quantization.keep)
    ]
    patterns += [(("quantization", "overrides", pattern), pattern) for pattern in quantization.overrides]
    for key, pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in names):
            raise recipe.mistake(
                key,
                (
                    f"found {pattern!r}, which matches no linear, expected a pattern of names such as "
                    f"{names[-1]}"
                ),
            )
    layout = quantization.layout
    for together in alike(family).values():
        found = {name: layout.pattern(name) for name in together}
        asked = {pattern and layout.overrides[pattern] for pattern in found.values()}
        if len(asked) > 1:
            name, pattern = next((name, pattern) for name, pattern in found.items() if pattern is not None)
            kept = pattern in quantization.keep
            place: Key = ("keep", quantization.keep.index(pattern)) if kept else ("overrides", pattern)
            raise recipe.mistake(
                ("quantization", *place),
                f"found {pattern!r}, which matches {name} and not that of every expert, expected a pattern "
                "that does: files hold them as one tensor",
            )


def _require_pairs(recipe: Recipe, name: str, family: Family) -> None:
    """Raise RecipeError for a task of pairs that no classifier of the family could read."""
    task, classified = recipe.tasks[name], family.classifiers
    if classified is None or task.head is not None or task.templates:
        raise recipe.mistake(("tasks", name, "prompt"), no_pairs(task))
    if not classified.pairs:
        raise recipe.mistake(
            ("tasks", name),
            "found pairs of texts, expected a prompt that brings both together: the base has one type of "
            "tokens (type_vocab_size)",
        )


def require_pairs_read(recipe: Recipe, family: Family) -> None:
    """Raise RecipeError for a task of pairs where the family, with all of its heads, has no classifiers."""
    for name, task in recipe.tasks.items():
        if task.pairs and not heads_of(family):
            raise recipe.mistake(("tasks", name, "prompt"), no_pairs(task))


def require_kind(recipe: Recipe, family: Family) -> None:
    """Raise RecipeError for data that the base model does not read, and for a metric of answers that it does
    not write.
    """
    reads, other = ("texts", "images") if family.images is None else ("images", "texts")
    for name, task in recipe.tasks.items():
        if task.pairs and family.images is None:
            _require_pairs(recipe, name, family)
        if task.chat and family.language is None:
            raise recipe.mistake(
                ("tasks", name, "chat"), "found true, expected it left out: the base model is in no chat"
            )
        if task.metric is not None and family.language is None:
            raise recipe.mistake(
                ("tasks", name, "metric"),
                f"found {task.metric}, expected it left out: the base model answers nothing in words",
            )
        for key, place in task.data:
            if isinstance(place, RecipeData):
                if getattr(place, other) is not None:
                    raise recipe.mistake(
                        ("tasks", name, *key, other),
                        f"found it set, expected the key left out: the base model reads {reads}",
                    )
            elif family.images is not None and place.is_file() and place.suffix.lower() not in FILES:
                expected = (
                    f"expected a directory of images or a file that ends in {' or '.join(FILES)}: the "
                    "base model reads images"
                )
                raise recipe.mistake(("tasks", name, *key), f"found the file {place.name}, {expected}")
