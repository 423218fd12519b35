"""What a recipe's model is called, and where it comes from."""

import logging
import re
from pathlib import Path
from typing import Any

import yaml
from huggingface_hub.repocard import metadata_load

from epmq_export.models.family import Family, heads_of
from epmq_export.recipe.recipe import Recipe
from epmq_export.tensors.about import About
from epmq_export.tensors.directory import CARD

log = logging.getLogger(__name__)

_HUB_ID = re.compile(r"\w[\w.-]*/[\w.-]+")
_LARGEST_CARD = 1 << 20
# The hub's own folder of a downloaded model: models--ORG--NAME/snapshots/REVISION.
_SNAPSHOT = re.compile(r"models--(.+?)--(.+)")


def about(recipe: Recipe, base: Path, family: Family) -> About:
    """Return the facts about the model that a recipe makes: its name, the hub's models that it is made of,
    what it is for, and what the card in the directory `base` of its base says of licence and languages.
    """
    card = _card(base / CARD)
    names = [recipe.base_named, *(model.model for model in recipe.experts)]
    parents = [found for name in names for part in name.split("+") if (found := hub_id(recipe, part))]
    return About(
        name=name_of(recipe),
        base_models=tuple(dict.fromkeys(parents)),
        license=_text(card.get("license")),
        languages=_texts(card.get("language")),
        pipeline_tag=purpose(family),
    )


def purpose(family: Family) -> str:
    """Return the hub's word for what a family's models are for."""
    if family.language is not None:
        return "text2text-generation" if family.language.encoder else "text-generation"
    if family.images is not None:
        if family.zero_shot is not None:
            return "zero-shot-image-classification"
        return "image-classification" if heads_of(family) else "image-feature-extraction"
    return "text-classification" if heads_of(family) else "sentence-similarity"


def name_of(recipe: Recipe) -> str:
    """Return the name of the model that a recipe makes: the one that it gives, or that of its only expert, or
    of its base with `-merged`.
    """
    if recipe.name is not None:
        return recipe.name
    experts = recipe.experts
    if len(experts) == 1:
        return _own_name(recipe, experts[0].model)
    return f"{_own_name(recipe, recipe.base_named)}-merged"


def hub_id(recipe: Recipe, name: str) -> str | None:
    """Return the hub's id of a model that the recipe names, without its revision, or None for a model that is
    on this machine alone.
    """
    place = recipe.location(name)
    if (found := _snapshot(Path(place))) is not None:
        return f"{found[1]}/{found[2]}"
    repository = place.partition("@")[0]
    return repository if _HUB_ID.fullmatch(repository) else None


def _own_name(recipe: Recipe, name: str) -> str:
    """Return a model's own name: the last part of a hub id or a path; of a model with an adapter, the
    adapter's.
    """
    place = Path(recipe.location(name).split("+")[-1].partition("@")[0])
    if (found := _snapshot(place)) is not None:
        return found[2]
    return place.stem if place.suffix == ".gguf" else place.resolve().name or "model"


def _snapshot(place: Path) -> re.Match[str] | None:
    """Return organisation and name of a model that lies in the hub's cache."""
    lies = len(place.parts) > 2 and place.parent.name == "snapshots"
    return _SNAPSHOT.fullmatch(place.parent.parent.name) if lies else None


def _card(path: Path) -> dict[str, Any]:
    """Return the front matter of a model card, empty where there is none, or where it is a stranger's trick:
    lists within lists without end, or a file that would fill the memory.
    """
    try:
        if path.is_file() and path.stat().st_size > _LARGEST_CARD:
            raise ValueError
        return metadata_load(path) or {}
    except (OSError, ValueError, RecursionError, yaml.YAMLError):
        if path.is_file():
            log.warning("%s: its front matter cannot be read, so it says nothing of the licence", path)
        return {}


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _texts(value: object) -> tuple[str, ...]:
    values = value if isinstance(value, list) else [value]
    return tuple(text for text in values if isinstance(text, str) and text)
