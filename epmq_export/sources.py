"""A recipe's models, opened: headers are read and compared, tensors stay on disk."""

import hashlib
import json
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

from epmq_export import files
from epmq_export._version import __version__
from epmq_export.files import read_json
from epmq_export.merging.assembly import assemble, origins, require_layers
from epmq_export.merging.merged import DTYPES
from epmq_export.merging.model_config import layer_changes, vocabulary_changes
from epmq_export.merging.names import count_layers
from epmq_export.merging.plan import Plan
from epmq_export.merging.registry import RULES
from epmq_export.merging.vocabulary import chat_template, tokenizer_of, vocabulary, write_tokenizer
from epmq_export.models.family import Family
from epmq_export.models.model_set import ModelSet
from epmq_export.recipe.merge import RecipeTokenizer
from epmq_export.recipe.plan import plan_of
from epmq_export.recipe.recipe import Recipe
from epmq_export.tensors.cached import Kept
from epmq_export.tensors.checkpoint import Checkpoint, OpenGguf, open_checkpoint
from epmq_export.tensors.companions import companions
from epmq_export.tensors.compatible import require_same_vocabulary
from epmq_export.tensors.directory import CONFIG
from epmq_export.tensors.gguf_file import is_gguf
from epmq_export.tensors.source import Joined, TypedSource, only, renamed, without


@dataclass(frozen=True)
class Checkpoints:
    """The base and the experts as they are stored, experts by `Recipe.location`, and what is to be made of
    them.
    """

    base: Checkpoint
    experts: Mapping[str, Checkpoint]
    plan: Plan


def open_checkpoints(recipe: Recipe, open_gguf: OpenGguf) -> Checkpoints:
    """Open what the recipe names; InputError for what is no model, RecipeError for settings that the rule
    cannot take.
    """
    plan = plan_of(recipe)
    base = open_checkpoint(recipe.location(recipe.base_model), open_gguf=open_gguf)
    experts = {}
    for model in recipe.experts:
        location = recipe.location(model.model)
        experts[location] = open_checkpoint(location, base, open_gguf=open_gguf)
    return Checkpoints(base, experts, plan)


def _require_same_vocabulary(recipe: Recipe, checkpoints: Checkpoints) -> None:
    for model in recipe.experts:
        require_same_vocabulary(
            checkpoints.base.model_directory,
            checkpoints.experts[recipe.location(model.model)].directory,
            model.model,
        )


def open_sources(recipe: Recipe, checkpoints: Checkpoints, open_family: Callable[[Path], Family]) -> ModelSet:
    """RecipeError where calibration cannot follow the merge, InputError for an expert that has another
    vocabulary than the base.
    """
    for key, value in (
        ("tokenizer_source", recipe.tokenizer_source),
        ("tokenizer", recipe.tokenizer),
        ("chat_template", recipe.chat_template),
    ):
        if value not in (None, "base"):
            raise recipe.mistake(
                (key,),
                (
                    "found it set, expected it left out: a calibrated model has the base's tokenizer; "
                    "`merge` works"
                ),
            )
    _require_same_vocabulary(recipe, checkpoints)
    family = open_family(checkpoints.base.directory)
    base = renamed(checkpoints.base, family.canonical)
    frozen = frozen_tensors(recipe, base, family.frozen)
    experts: Mapping[str, TypedSource] = {
        location: renamed(expert, family.canonical) for location, expert in checkpoints.experts.items()
    }
    moving = {
        location: without(model, frozen)
        for location, model in {recipe.location(recipe.base_model): base, **experts}.items()
    }
    require_layers(recipe, checkpoints.plan, next(iter(moving.values())))
    merge = assemble(recipe, checkpoints.plan, moving, DTYPES[recipe.dtype] if recipe.dtype else None)
    if RULES[recipe.merge_method].costly:
        # The anchor's length, each calibration (`tune` has many) and the verdict read all of it.
        merge = Kept(merge)
    opened = ModelSet(family, base, experts, merge, frozen)
    if not frozen:
        return opened
    still = only(base, frozen)
    return replace(
        opened,
        experts={location: opened.like_expert(expert) for location, expert in experts.items()},
        merged=Joined([merge, still]),
    )


def frozen_tensors(recipe: Recipe, base: TypedSource, patterns: Sequence[str]) -> list[str]:
    """The tensors that stay the base's: those that the recipe's patterns match, or without any those that
    these do.
    """
    for i, pattern in enumerate(recipe.frozen or ()):
        if not any(fnmatchcase(name, pattern) for name in base.names()):
            raise recipe.mistake(
                ("frozen", i),
                (
                    f"found {pattern!r}, which matches no tensor, expected a pattern of names such as "
                    f"{base.names()[0]}"
                ),
            )
    asked = patterns if recipe.frozen is None else recipe.frozen
    found = [name for name in base.names() if any(fnmatchcase(name, pattern) for pattern in asked)]
    if len(found) == len(base.names()):
        raise recipe.mistake(("frozen",), "found patterns of all tensors, expected some that are merged")
    return found


@dataclass(frozen=True)
class Output:
    """What `epmq merge` writes."""

    source: TypedSource
    directory: Path
    """Whose config and tokenizer it has,"""

    config: Mapping[str, Any]
    """but for these values of config.json,"""

    tokenizer: Callable[[Path], None] | None
    """and for the tokenizer that this writes into the output's directory."""


def merge(recipe: Recipe, checkpoints: Checkpoints, patterns: Sequence[str] = ()) -> Output:
    """The merge in full precision. RecipeError or InputError where the models cannot be merged as the recipe
    says.

    What `patterns` match, or those of the recipe where it has its own, is the base's.
    """
    base = recipe.location(recipe.base_model)
    frozen = frozen_tensors(recipe, checkpoints.base, patterns)
    models: dict[str, Checkpoint] = {base: checkpoints.base, **checkpoints.experts}
    directory = checkpoints.base.model_directory
    config = read_json(directory / CONFIG) if (directory / CONFIG).exists() else {}
    asked, known, tokenizer = recipe.tokenizer or recipe.tokenizer_source, None, None
    if asked is None:
        _require_same_vocabulary(recipe, checkpoints)
    else:
        asked = RecipeTokenizer(source=asked) if isinstance(asked, str) else asked
        source = (
            base
            if asked.source == "base"
            else asked.source
            if asked.source == "union"
            else recipe.location(asked.source)
        )
        tokenizer, known = vocabulary(recipe, models, source, asked.tokens, asked.pad_to_multiple_of or 1)
    if recipe.chat_template is not None:
        tokenizer = tokenizer or tokenizer_of(checkpoints.base)
        tokenizer.chat_template = chat_template(recipe.chat_template, recipe, models)
    dtype = recipe.out_dtype or recipe.dtype
    result = assemble(
        recipe,
        checkpoints.plan,
        {location: without(model, frozen) for location, model in models.items()},
        DTYPES[dtype] if dtype else None,
        known,
    )
    if frozen:
        result = Joined([result, only(checkpoints.base, frozen)])
    # After `assemble`, which refuses layers that there are not.
    layers = origins(recipe, checkpoints.plan, checkpoints.base)
    changes = layer_changes(config, directory / CONFIG, count_layers(checkpoints.base.names()), layers)
    if known is not None:
        changes |= vocabulary_changes({**config, **changes}, known.size)
    return Output(
        result, directory, changes, None if tokenizer is None else partial(write_tokenizer, tokenizer)
    )


def provenance(recipe: Recipe, checkpoints: Checkpoints, data: Mapping[str, str]) -> dict[str, Any]:
    """`recipe` as written, `inputs` with the SHA-256 of every file that decides the result, `versions`. No
    time, no machine.

    `data` are inputs that are no files, with their digests.
    """
    inputs = [
        (path, checkpoints.base)
        for path in sorted({*checkpoints.base.files(), *companions(checkpoints.base.directory)})
    ]
    inputs += [(path, expert) for expert in checkpoints.experts.values() for path in expert.files()]
    hashed = [
        {
            "path": path.name if is_gguf(path) else f"{_name(model)}/{path.relative_to(model.directory)}",
            "sha256": files.sha256(path),
        }
        for path, model in inputs
        if path.is_relative_to(model.directory) or is_gguf(path)
    ]
    hashed += [
        {
            "path": _relative(path, recipe.directory),
            "sha256": files.tree_sha256(path) if path.is_dir() else files.sha256(path),
        }
        for path in recipe.files
    ]
    hashed += [{"path": name, "sha256": digest} for name, digest in data.items()]
    packages = ("torch", "transformers", "tokenizers", "numpy", "safetensors", "pillow")
    return {
        "recipe": recipe.source,
        "inputs": hashed,
        "versions": {
            "epmq-export": __version__,
            **{package: version(package) for package in packages},
        },
    }


def fingerprint(index: Mapping[str, Any]) -> str:
    """SHA-256 of everything that decides a calibration: two runs that share it give the same bytes."""
    return hashlib.sha256(json.dumps(index, sort_keys=True).encode()).hexdigest()


def _name(model: Checkpoint) -> str:
    """A hub id as it is, a directory or file by its own name: its place on this machine is nobody else's."""
    return Path(model.location).name if Path(model.location).exists() else model.location


def _relative(path: Path, directory: Path) -> str:
    relative = os.path.relpath(path, directory)
    return path.name if relative.startswith("..") else relative
