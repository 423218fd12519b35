"""What is sure to fail fails before the work."""

from collections.abc import Sequence
from fnmatch import fnmatchcase
from typing import cast

from epmq_export.calibration.uncalibrated import linears
from epmq_export.data.images import FILES
from epmq_export.data.task import Task
from epmq_export.errors import Key
from epmq_export.grids import GRIDS
from epmq_export.models.family import Family, LanguageFamily
from epmq_export.recipe.recipe import Recipe
from epmq_export.recipe.task import RecipeData
from epmq_export.verification.tasks.language import _answers


def require_formats(recipe: Recipe, family: Family) -> None:
    """RecipeError for a format that the family cannot be written in, and for a task that it has no way to be
    scored on.
    """
    if lacking := [name for name in recipe.export.formats or () if name not in family.runtimes]:
        raise recipe.mistake(
            ("export", "formats"),
            (
                f"found {lacking[0]}, which family {family.name} cannot be written in, expected "
                f"{', '.join(family.runtimes)}"
            ),
        )
    if recipe.export.split_size is not None:
        if "gguf" not in (recipe.export.formats or family.runtimes):
            raise recipe.mistake(
                ("export", "split_size"), "found it set, expected the key left out: no GGUF file is written"
            )
        if family.runtimes["gguf"] != "llama.cpp":
            raise recipe.mistake(
                ("export", "split_size"),
                (
                    f"found it set, expected the key left out: {family.runtimes['gguf']} reads a model "
                    "in one "
                    "file only"
                ),
            )
    language = family.modality == "language"
    for name, task in recipe.tasks.items():
        if family.modality == "image" and task.prompt != "{}":
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
            and family.text_tower is None
            and (task.labels or task.templates)
            and task.head is None
        ):
            raise recipe.mistake(
                ("tasks", name, "head"),
                f"found nothing, expected a linear head: family {family.name} embeds no label texts",
            )


def require_readable(recipe: Recipe, family: Family) -> None:
    """RecipeError where the recipe asks for a grid that the runtime of the family's GGUF files cannot decode,
    InputError where that runtime cannot read the model at all: what is sure to fail fails before the work.
    """
    if "gguf" not in (recipe.export.formats or family.runtimes) or (known := family.gguf().grids) is None:
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
            runtime = family.runtimes["gguf"]
            raise recipe.mistake(
                ("quantization", *key),
                (
                    f"found {name}, which {runtime} cannot read in GGUF, expected one of {expected}, or "
                    "export.formats without gguf"
                ),
            )


def require_matches(recipe: Recipe, family: Family) -> None:
    """RecipeError for a pattern that matches no linear."""
    names = [
        f"{block.prefix}{path}.weight" for block in family.blocks for step in block.steps for path in step
    ]
    names += linears(family)
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
                    f"found {pattern!r}, which matches no tensor, expected a pattern of names such as "
                    f"{names[-1]}"
                ),
            )


def require_kind(recipe: Recipe, modality: str) -> None:
    """RecipeError for data that are not what the base model reads, and for a metric of what it does not
    write.
    """
    reads, other = ("images", "texts") if modality == "image" else ("texts", "images")
    for name, task in recipe.tasks.items():
        if task.metric is not None and modality != "language":
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
            elif modality == "image" and place.is_file() and place.suffix.lower() not in FILES:
                expected = (
                    f"expected a directory of images or a file that ends in {' or '.join(FILES)}: the "
                    "base model reads images"
                )
                raise recipe.mistake(("tasks", name, *key), f"found the file {place.name}, {expected}")


def require_answerable(family: Family, tasks: Sequence[Task]) -> None:
    """InputError where the model has no room for a task's answers: told before the work."""
    for task in tasks:
        _answers(task, cast(LanguageFamily, family))
