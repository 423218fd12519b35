"""The merge in full precision, as `epmq merge` writes it."""

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from epmq_export.files import read_json
from epmq_export.merging.assembly import assemble, origins
from epmq_export.merging.hf_directory import model_card, write_merged
from epmq_export.merging.merged import DTYPES
from epmq_export.merging.model_config import layer_changes, vocabulary_changes
from epmq_export.merging.names import count_layers
from epmq_export.merging.vocabulary import (
    Vocabulary,
    chat_template,
    tokenizer_of,
    vocabulary,
    write_tokenizer,
)
from epmq_export.models.classifiers import PREFIX, Classifier
from epmq_export.models.classifiers import WEIGHTS as HEADS
from epmq_export.models.heads_file import heads_file
from epmq_export.pipeline.classifiers import merged_heads
from epmq_export.pipeline.models import (
    Checkpoints,
    frozen_tensors,
    open_checkpoints,
    require_changes,
    require_one_vocabulary,
    settings_notes,
    untrained,
)
from epmq_export.pipeline.progress import Stages, Update
from epmq_export.pipeline.registry import Registry
from epmq_export.recipe.merge import RecipeTokenizer
from epmq_export.recipe.published import published
from epmq_export.recipe.recipe import Recipe
from epmq_export.tensors.checkpoint import Checkpoint
from epmq_export.tensors.directory import CONFIG, SHARD_INDEX, WEIGHTS
from epmq_export.tensors.fitted import with_own_head
from epmq_export.tensors.source import Joined, Passed, TypedSource, only, without

log = logging.getLogger(__name__)

MODEL_FILES = (CONFIG, WEIGHTS, SHARD_INDEX)
"""The files of which every merge has one."""


@dataclass(frozen=True)
class Output:
    """The model that `epmq merge` writes."""

    source: TypedSource
    directory: Path
    """The model directory whose config and tokenizer it gets."""

    config: Mapping[str, Any]
    """The values of config.json that differ from those there."""

    tokenizer: Callable[[Path], None] | None
    """A function that writes another tokenizer into the directory of the output, or None."""


def merge(recipe: Recipe, checkpoints: Checkpoints, patterns: Sequence[str] = ()) -> Output:
    """Return the merge in full precision, computed as it is read.

    Tensors that match `patterns`, or those of the recipe where it has its own, are the base's. Raises
    RecipeError or InputError where the models cannot be merged as the recipe says.
    """
    frozen = frozen_tensors(recipe, checkpoints.base, patterns)
    moving = set(checkpoints.base.names()).difference(frozen)
    stored = {recipe.location(recipe.base_model): checkpoints.base, **checkpoints.experts}
    for expert in checkpoints.experts.values():
        require_changes(expert, moving)
    naming, parted = checkpoints.base.naming, bool(checkpoints.own_heads)
    models = {name: with_own_head(model, naming) if parted else model for name, model in stored.items()}
    dtype = recipe.out_dtype or recipe.dtype
    if recipe.tokenizer is None and recipe.tokenizer_source is None:
        require_one_vocabulary(recipe, checkpoints)
    with recipe.located():
        tokenizer, known = _tokenizer(recipe, stored)
        result = assemble(
            checkpoints.plan,
            {location: without(model, frozen) for location, model in models.items()},
            DTYPES[dtype] if dtype else None,
            known,
        )
        # This comes after `assemble`, which refuses layers that do not exist.
        changes = _config_changes(checkpoints, known)
    if parted:
        changes["tie_word_embeddings"] = False
    return Output(
        source=Joined([result, only(checkpoints.base, frozen)]) if frozen else result,
        directory=checkpoints.base.model_directory,
        config=changes,
        tokenizer=None if tokenizer is None else partial(write_tokenizer, tokenizer),
    )


def _tokenizer(recipe: Recipe, models: Mapping[str, Checkpoint]) -> tuple[Any, Vocabulary | None]:
    """Return the tokenizer that is written, and the vocabulary that the models get, or None for the base's
    own.

    `models` are by location, the base first.
    """
    base = next(iter(models))
    tokenizer, known = None, None
    asked = recipe.tokenizer
    if recipe.tokenizer_source is not None:
        asked = RecipeTokenizer(source=recipe.tokenizer_source)
    if asked is not None:
        source = base if asked.source == "base" else asked.source
        if source not in (base, "union"):
            source = recipe.location(source)
        tokenizer, known = vocabulary(
            models, source, asked.entries(recipe.location), asked.pad_to_multiple_of or 1
        )
    if recipe.chat_template is not None:
        tokenizer = tokenizer or tokenizer_of(models[base])
        tokenizer.chat_template = chat_template(recipe.chat_template, models)
    return tokenizer, known


def _config_changes(checkpoints: Checkpoints, known: Vocabulary | None) -> dict[str, Any]:
    """Return the values of config.json that differ between the base and the merge."""
    path = checkpoints.base.model_directory / CONFIG
    config = read_json(path) if path.exists() else {}
    layers = origins(checkpoints.plan, checkpoints.base)
    changes = layer_changes(config, path, count_layers(checkpoints.base.names()), layers)
    if known is not None:
        changes |= vocabulary_changes({**config, **changes}, known.size)
    return changes


def _notes(recipe: Recipe, checkpoints: Checkpoints, heads: Sequence[Classifier]) -> list[str]:
    """Return a sentence for all that is not merged as one may expect it."""
    notes = [note for expert in checkpoints.experts.values() for note in expert.notes]
    notes += [f"{head.task}: its own classifier lies in {HEADS}, as its expert has it" for head in heads]
    notes += [
        f"{expert.location} has a head that is not its embeddings: the merge has a head of its own, too"
        for expert in checkpoints.own_heads
    ]
    base = recipe.location(recipe.base_model)
    named = {
        model.model: checkpoints.experts[location]
        for model in recipe.experts
        if (location := recipe.location(model.model)) != base
    }
    return notes + untrained(checkpoints.base, named)


def _written(recipe: Recipe) -> str:
    """Return the recipe as its file has it, or as others may read it where it names places of this
    machine.
    """
    told = published(recipe.source, recipe.directory)
    if told == recipe.source:
        return recipe.path.read_text(encoding="utf-8")
    return yaml.safe_dump(told, sort_keys=False, allow_unicode=True)


def write_merge(registry: Registry, recipe: Recipe, directory: Path, stages: Stages) -> None:
    """Merge the models of a recipe and write a Hugging Face directory, whole or not at all."""
    checkpoints = open_checkpoints(recipe, registry.open_gguf, registry.naming_of)
    notes = settings_notes(recipe, checkpoints, registry)
    merged = merge(recipe, checkpoints, registry.frozen(checkpoints.base.model_directory))
    heads, tensors = merged_heads(recipe, checkpoints.base.naming, checkpoints.experts)
    for note in (*notes, *_notes(recipe, checkpoints, heads)):
        log.warning("%s", note)
    experts = [model.model for model in recipe.experts]
    base, *experts = published([recipe.base_model, *experts], recipe.directory)
    card = model_card(base, experts, recipe.merge_method, _written(recipe)) + _on_heads(heads)
    with stages.stage("merge") as update:
        write_merged(
            directory,
            _Counted(merged.source, update),
            merged.directory,
            card,
            config=merged.config,
            tokenizer=merged.tokenizer,
            beside={} if tensors is None else {HEADS: _heads_file(heads, tensors)},
        )


def _heads_file(heads: Sequence[Classifier], tensors: TypedSource) -> bytes:
    """Return the file of the experts' heads, whose tensors have canonical names."""
    places = [(f"{PREFIX}{place}.", f"{head.task}.") for place, head in enumerate(heads)]
    named = {
        name.replace(here, there, 1): tensors.load(name)
        for here, there in places
        for name in tensors.names()
        if name.startswith(here)
    }
    return heads_file(heads, named)


def _on_heads(heads: Sequence[Classifier]) -> str:
    """Return the section of the model card on the experts' own heads; an empty text where there are none."""
    if not heads:
        return ""
    listed = "".join(f"- {head.task}: {', '.join(head.classes)}\n" for head in heads)
    return (
        f"\n## Classifiers\n\n`{HEADS}` has the experts' own heads, as they are, each the linear `TASK.out` "
        "behind what some have before it, such as `TASK.dense`, on the encoder's hidden state. Their "
        f"classes, in the order of the scores:\n\n{listed}"
    )


class _Counted(Passed):
    """A source that tells of each tensor that is loaded."""

    def __init__(self, source: TypedSource, update: Update) -> None:
        super().__init__(source)
        self._update, self._done, self._total = update, 0, len(source.names())

    def load(self, name: str) -> Tensor:
        self._update(name, self._done, self._total)
        self._done = min(self._done + 1, self._total)
        return super().load(name)
