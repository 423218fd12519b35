"""A recipe's models, opened: headers are read and compared, tensors stay on disk."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import epmq_export
from epmq_export import files
from epmq_export.checkpoint import Checkpoint, open_checkpoint, renamed
from epmq_export.errors import RecipeError
from epmq_export.family import Family
from epmq_export.fit import require_same_vocabulary
from epmq_export.merging import DTYPES, Merged, MergeSettings, merge_settings, merged
from epmq_export.packed import companions
from epmq_export.recipe import Recipe
from epmq_export.tensors import TypedSource


@dataclass(frozen=True)
class Checkpoints:
    """The base and the experts as they are stored, experts by `Recipe.location`."""

    base: Checkpoint
    experts: Mapping[str, Checkpoint]
    settings: MergeSettings


@dataclass(frozen=True)
class Sources:
    """The same under the family's canonical names, with the merge; what calibration reads."""

    family: Family
    base: TypedSource
    experts: Mapping[str, TypedSource]
    merged: Merged


def open_checkpoints(recipe: Recipe) -> Checkpoints:
    """Open what the recipe names; InputError for what is no model, or has another vocabulary than the base."""
    base = open_checkpoint(recipe.location(recipe.base_model))
    experts = {}
    for model in recipe.experts:
        location = recipe.location(model.model)
        experts[location] = open_checkpoint(location, base)
        require_same_vocabulary(base.directory, experts[location].directory, model.model)
    try:
        settings = merge_settings(
            recipe.merge_method, recipe.parameters, [(model.model, model.parameters) for model in recipe.experts], recipe.merge_convention
        )
    except RecipeError as error:
        raise RecipeError(f"{recipe.path}: {error}") from None
    return Checkpoints(base, experts, settings)


def open_sources(checkpoints: Checkpoints, open_family: Callable[[Path], Family], dtype: str | None) -> Sources:
    family = open_family(checkpoints.base.directory)
    base = renamed(checkpoints.base, family.canonical)
    experts = {location: renamed(expert, family.canonical) for location, expert in checkpoints.experts.items()}
    return Sources(family, base, experts, merged(base, [*experts.values()], checkpoints.settings, DTYPES[dtype] if dtype else None))


def tokenizer_directory(recipe: Recipe, checkpoints: Checkpoints) -> Path:
    """Where `tokenizer_source` says that config and tokenizer come from; the base where it says nothing."""
    if recipe.tokenizer_source in (None, "base"):
        return checkpoints.base.directory
    location = recipe.location(recipe.tokenizer_source)
    if location == recipe.location(recipe.base_model):
        return checkpoints.base.directory
    directory = checkpoints.experts[location].directory
    if not (directory / "config.json").exists():
        raise RecipeError(f"tokenizer_source {recipe.tokenizer_source}: {directory} has no config.json; expected a full model, or 'base'")
    return directory


def provenance(recipe: Recipe, checkpoints: Checkpoints) -> dict[str, Any]:
    """`recipe` as written, `inputs` with the SHA-256 of every file that decides the result, `versions`. No time, no machine."""
    inputs = [(path, checkpoints.base) for path in sorted({*checkpoints.base.files(), *companions(checkpoints.base.directory)})]
    inputs += [(path, expert) for expert in checkpoints.experts.values() for path in expert.files()]
    hashed = [
        {"path": f"{_name(model)}/{path.relative_to(model.directory)}", "sha256": files.sha256(path)}
        for path, model in inputs
        if path.is_relative_to(model.directory)
    ]
    hashed += [{"path": _relative(path, recipe.directory), "sha256": files.sha256(path)} for path in recipe.files]
    packages = ("torch", "transformers", "tokenizers", "numpy", "safetensors")
    return {
        "recipe": recipe.source,
        "inputs": hashed,
        "versions": {"epmq-export": epmq_export.__version__, **{package: version(package) for package in packages}},
    }


def fingerprint(index: Mapping[str, Any]) -> str:
    """SHA-256 of everything that decides a calibration: two runs that share it give the same bytes."""
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def _name(model: Checkpoint) -> str:
    """A hub id as it is, a directory by its own name: its place on this machine is nobody else's."""
    return Path(model.location).name if Path(model.location).is_dir() else model.location


def _relative(path: Path, directory: Path) -> str:
    relative = os.path.relpath(path, directory)
    return path.name if relative.startswith("..") else relative
