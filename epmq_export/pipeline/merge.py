"""The merge in full precision, as `epmq merge` writes it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from epmq_export.files import read_json
from epmq_export.merging.assembly import assemble, origins
from epmq_export.merging.merged import DTYPES
from epmq_export.merging.model_config import layer_changes, vocabulary_changes
from epmq_export.merging.names import count_layers
from epmq_export.merging.vocabulary import chat_template, tokenizer_of, vocabulary, write_tokenizer
from epmq_export.pipeline.models import Checkpoints, _require_same_vocabulary, frozen_tensors
from epmq_export.recipe.merge import RecipeTokenizer
from epmq_export.recipe.recipe import Recipe
from epmq_export.tensors.checkpoint import Checkpoint
from epmq_export.tensors.directory import CONFIG
from epmq_export.tensors.source import Joined, TypedSource, only, without


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
