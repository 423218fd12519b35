"""Adapters that say that they were trained on another model than the recipe's base. Their tensors may fit it
all the same, as those of a model's variants do.
"""

import re
from collections.abc import Mapping

from epmq_export.files import read_json
from epmq_export.recipe.recipe import Recipe
from epmq_export.tensors.adapter_settings import AdapterSettings
from epmq_export.tensors.checkpoint import Checkpoint
from epmq_export.tensors.directory import ADAPTER_CONFIG, CONFIG

_IN_CACHE = re.compile(r".*models--[^/\\]+--([^/\\]+)[/\\]snapshots\b.*")
_GGUF = ".gguf"


def of_another_base(recipe: Recipe, base: Checkpoint, experts: Mapping[str, Checkpoint]) -> list[str]:
    """Return a sentence for each model that adapters were trained on by what they say, and whose name is none
    of the base's. `experts` are those that are here, by `Recipe.location`.

    A name is the last part of a path or of an id of the hub: where a model lies says nothing of it.
    """
    config = base.model_directory / CONFIG
    told = read_json(config).get("_name_or_path") if config.is_file() else None
    own = {_name(str(each)) for each in (recipe.base_named, recipe.base_model, base.model_directory, told)}
    found: dict[str, list[str]] = {}
    for model in recipe.experts:
        expert = experts.get(recipe.location(model.model))
        if expert is None or expert.model_directory != base.model_directory:
            continue  # BASE+ADAPTER says its base.
        path = expert.directory / ADAPTER_CONFIG
        said = AdapterSettings(path).base if path.is_file() else ""
        if said and not any(_name(said) == each or _made_of(each, _name(said)) for each in own):
            found.setdefault(said, []).append(model.model)
    return [
        f"{', '.join(names)}: {ADAPTER_CONFIG} says that it was trained on {said!r}, and the base is "
        f"{recipe.base_named}: it is right only where both are one model"
        for said, names in found.items()
    ]


def _name(place: str) -> str:
    """Return what a model is called, without capitals."""
    place = _IN_CACHE.sub(r"\1", place.rstrip("/\\"))
    return re.split(r"[/\\]", place)[-1].partition("@")[0].casefold()


def _made_of(file: str, name: str) -> bool:
    """Return whether a file is a GGUF of a model, by its name, which says the model's and the grid's."""
    return file.endswith(_GGUF) and name in file
