"""The place that a job writes to: it is this job's alone, and nothing that the job reads lies in it."""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from epmq_export import files
from epmq_export.errors import OutputError, RecipeError
from epmq_export.files import scratch
from epmq_export.recipe.recipe import Recipe


@contextmanager
def reserved(path: Path, recipe: Recipe, replaced: bool, parts: Sequence[str] = (".",)) -> Iterator[None]:
    """Have an output for one job, before anything is read or written.

    `replaced` says that what is there is no obstacle, and `parts` are what the job replaces there, by their
    names. Raises OutputError where another process is at work on the output, or where no directory can be,
    and RecipeError where an input of the recipe would be replaced.
    """
    if replaced and files.is_stream(path):
        raise OutputError(f"{path}: found a stream, expected the place of a directory")
    scratch.clear()
    with files.locked(path):
        for part in parts:
            _require_apart(path, path / part, recipe, replaced)
        yield


def refuse_foreign(path: Path, marks: Sequence[str]) -> None:
    """Raise RecipeError for a directory that would be replaced and is no earlier output: each of these has
    one of the names in `marks`. What else people keep is not taken away with one wrong word.
    """
    if not path.is_dir() or not files.taken(path) or any((path / mark).exists() for mark in marks):
        return
    names = sorted(entry.name for entry in path.iterdir())
    more = f" and {len(names) - 1} more" if names[1:] else ""
    raise RecipeError(
        f"{path}: found a directory with {names[0]}{more} and without {' or '.join(marks)}, expected an "
        "earlier output to replace, or another place"
    )


def _require_apart(path: Path, place: Path, recipe: Recipe, existing: bool) -> None:
    replaced = Path(os.path.realpath(place))
    for read in (recipe.path, *recipe.files, *_models(recipe)):
        real = Path(os.path.realpath(read))
        if existing and real.is_relative_to(replaced):
            where = "as the output" if real == replaced else f"in {place}, which the output would replace"
            raise RecipeError(
                f"{path}: found {read} {where}, expected another place than what the recipe reads"
            )
        if real.is_dir() and read in recipe.files and replaced.is_relative_to(real):
            raise RecipeError(f"{path}: found it in {read}, which is read as data, expected another place")


def _models(recipe: Recipe) -> list[Path]:
    """Return the models that are here, a base with an adapter as two. An id of the hub is none, whatever lies
    where the program runs.
    """
    named = [recipe.base_model, *(model.model for model in recipe.experts)]
    places = [recipe.location(name) for name in named]
    parts = [part for place in places for part in ([place] if Path(place).exists() else place.split("+"))]
    return [Path(part) for part in parts if Path(part).is_absolute() and Path(part).exists()]
