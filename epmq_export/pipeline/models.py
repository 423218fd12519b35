"""The models of a recipe, opened: headers are read and compared, tensors stay on disk."""

import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path

from epmq_export.errors import InputError
from epmq_export.merging.assembly import assemble, require_layers
from epmq_export.merging.merged import DTYPES
from epmq_export.merging.names import layer_of
from epmq_export.merging.plan import Plan
from epmq_export.merging.registry import RULES
from epmq_export.models.family import Family
from epmq_export.models.model_set import ModelSet
from epmq_export.pipeline.classifiers import classifier_notes, with_classifiers
from epmq_export.pipeline.forecast.planned import tensor_shapes
from epmq_export.pipeline.registry import Registry
from epmq_export.pipeline.trained_on import of_another_base
from epmq_export.recipe.plan import plan_of
from epmq_export.recipe.recipe import Recipe
from epmq_export.tensors.cached import Kept
from epmq_export.tensors.checkpoint import Checkpoint, NamingOf, OpenGguf, open_checkpoint
from epmq_export.tensors.compatible import SHOWN, own_tokens, require_same_vocabulary
from epmq_export.tensors.directory import CONFIG
from epmq_export.tensors.fitted import has_own_head, is_equal
from epmq_export.tensors.source import Joined, TypedSource, only, renamed, without

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Checkpoints:
    """The base and the experts as they are stored, the experts by `Recipe.location`, and the plan of their
    merge.
    """

    base: Checkpoint
    experts: Mapping[str, Checkpoint]
    """The experts, under the names that the base stores."""

    plan: Plan

    @property
    def own_heads(self) -> list[Checkpoint]:
        """Return the experts that have a head of their own, which the base has not."""
        naming = self.base.naming
        if has_own_head(self.base, naming):
            return []
        return [expert for expert in self.experts.values() if has_own_head(expert, naming)]


def open_checkpoints(recipe: Recipe, open_gguf: OpenGguf, naming_of: NamingOf | None = None) -> Checkpoints:
    """Open the models that the recipe names.

    Raises InputError for a location that is no model, and RecipeError for settings that the rule cannot take.
    """
    plan = plan_of(recipe)
    # What the recipe does not find beside itself is the hub's, whatever lies where the program runs.
    opened = partial(open_checkpoint, relative_to=recipe.directory, open_gguf=open_gguf, naming_of=naming_of)
    base = opened(recipe.location(recipe.base_model))
    experts = {}
    for model in recipe.experts:
        location = recipe.location(model.model)
        experts[location] = opened(location, base)
    return Checkpoints(base, experts, plan)


def require_one_vocabulary(recipe: Recipe, checkpoints: Checkpoints) -> None:
    """Raise InputError for an expert that has another vocabulary than the base."""
    for model in recipe.experts:
        require_same_vocabulary(
            checkpoints.base.model_directory,
            checkpoints.experts[recipe.location(model.model)].directory,
            model.model,
        )


def require_same_settings(
    base: Checkpoint, expert: Checkpoint, name: str, compare: Callable[[Path, Path, str], Sequence[str]]
) -> list[str]:
    """Return a sentence for each setting beside an expert's weights that differs from the base's and is told.

    An adapter's are those of the model that it was trained on, and what it has in its own directory. Raises
    InputError for a setting that changes what is computed.
    """
    places = dict.fromkeys((expert.model_directory, expert.directory))
    return [note for place in places for note in compare(base.model_directory, place, name)]


def settings_notes(recipe: Recipe, checkpoints: Checkpoints, registry: Registry) -> list[str]:
    """Return the same for all experts of a recipe, with what adapters say of another base, and the tokens
    that the merge has not.
    """
    notes = [
        note
        for model in recipe.experts
        for note in require_same_settings(
            checkpoints.base,
            checkpoints.experts[recipe.location(model.model)],
            model.model,
            registry.require_same_settings,
        )
    ]
    notes += of_another_base(recipe, checkpoints.base, checkpoints.experts)
    return [*notes, *lost_tokens(recipe, checkpoints.base, checkpoints.experts)]


def lost_tokens(recipe: Recipe, base: Checkpoint, experts: Mapping[str, Checkpoint]) -> list[str]:
    """Return a sentence for each expert whose tokenizer has tokens that the base's has not, where the merge
    has the base's. `experts` are those that are here, by `Recipe.location`.
    """
    if recipe.tokenizer is not None or recipe.tokenizer_source not in (None, "base"):
        return []
    notes = []
    for model in recipe.experts:
        expert = experts.get(recipe.location(model.model))
        own = [] if expert is None else own_tokens(base.model_directory, expert.directory)
        if own:
            more = f" (and {len(own) - SHOWN} more)" if len(own) > SHOWN else ""
            notes.append(
                f"{model.model}: its tokenizer has {', '.join(map(repr, own[:SHOWN]))}{more}, which the "
                "base's has not: the merge has the base's, and reads them as any text"
            )
    return notes


def require_whole(stored: Checkpoint, base: TypedSource, family: Family) -> None:
    """Raise InputError for a base that lacks a tensor of its family, or has one in another shape than its own
    config says. `base` has it under canonical names.
    """
    there = frozenset(base.names())
    for name, shape in tensor_shapes(family).items():
        found = list(base.shape(name)) if name in there else "none"
        if found != list(shape):
            raise InputError(
                f"{stored.location}: found {found} for the shape of tensor {name}, expected {list(shape)} by "
                f"{stored.model_directory / CONFIG}: the base is not whole"
            )


def require_changes(expert: Checkpoint, moving: Collection[str]) -> None:
    """Raise InputError for an adapter that changes none of the tensors that are merged, `moving`."""
    if expert.changed is not None and not expert.changed & set(moving):
        raise InputError(
            f"{expert.location}: the adapter changes {min(expert.changed)} and the like alone, which stay "
            "the base's, expected one that changes something that is merged"
        )


def require_no_own_head(base: Checkpoint, expert: Checkpoint) -> None:
    """Raise InputError for an expert with a head of its own on a base whose head is its embeddings."""
    if has_own_head(expert, base.naming) and not has_own_head(base, base.naming):
        raise InputError(
            f"{expert.location}: found a head that is not its embeddings, expected one that is, as the "
            "base's: the calibrated model has one tensor for both; `merge` writes two"
        )


def expert_names(recipe: Recipe, locations: Iterable[str]) -> list[str]:
    """Return the names of the experts at some locations, as the recipe has them."""
    names = {recipe.location(model.model): model.model for model in recipe.experts}
    return [names[location] for location in locations]


def untrained(base: TypedSource, experts: Mapping[str, TypedSource]) -> list[str]:
    """Return a sentence for each expert, by its name, that is equal to the base."""
    names = [name for name in base.names() if base.dtype(name).is_floating_point]
    names.sort(key=lambda name: layer_of(name) is None)  # Embeddings are large, and often not trained.
    return [
        f"{name} equals the base in all that is merged: it has not been trained"
        for name, expert in experts.items()
        if is_equal(base, expert, names)
    ]


def open_models(recipe: Recipe, checkpoints: Checkpoints, open_family: Callable[[Path], Family]) -> ModelSet:
    """Return a recipe's models as calibration takes them.

    Raises RecipeError where calibration cannot follow the merge, and InputError for an expert that has
    another vocabulary than the base.
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
    require_one_vocabulary(recipe, checkpoints)
    for expert in checkpoints.experts.values():
        require_no_own_head(checkpoints.base, expert)
        for note in expert.notes:
            log.info("%s", note)
    family = open_family(checkpoints.base.directory)
    base: TypedSource = renamed(checkpoints.base, family.canonical)
    require_whole(checkpoints.base, base, family)
    frozen = frozen_tensors(recipe, base, family.frozen)
    held = set(frozen)
    merged = [name for name in checkpoints.base.names() if family.canonical(name) not in {None, *held}]
    for expert in checkpoints.experts.values():
        require_changes(expert, merged)
    experts: Mapping[str, TypedSource] = {
        location: renamed(expert, family.canonical) for location, expert in checkpoints.experts.items()
    }
    moving = {
        location: without(model, frozen)
        for location, model in {recipe.location(recipe.base_model): base, **experts}.items()
    }
    with recipe.located():
        require_layers(checkpoints.plan, next(iter(moving.values())))
        merge = assemble(checkpoints.plan, moving, DTYPES[recipe.dtype] if recipe.dtype else None)
    if RULES[recipe.merge_method].costly:
        # The length of the anchor, each calibration (`tune` has many) and the verdict read all of the merge.
        merge = Kept(merge)
    family, heads = with_classifiers(recipe, family, checkpoints.experts)
    for note in classifier_notes(family):
        log.info("%s", note)
    if heads is not None:
        # The heads stay as their experts have them, as frozen tensors do.
        base, frozen = Joined([base, heads]), [*frozen, *heads.names()]
    opened = ModelSet(family=family, base=base, experts=experts, merged=merge, frozen=frozen)
    if not frozen:
        return opened
    still = only(base, frozen)
    return replace(
        opened,
        experts={location: opened.like_expert(expert) for location, expert in experts.items()},
        merged=Joined([merge, still]),
    )


def frozen_tensors(recipe: Recipe, base: TypedSource, patterns: Sequence[str]) -> list[str]:
    """Return the names of the tensors that stay the base's: those that match the recipe's patterns or, where
    it has none, `patterns`.

    Raises RecipeError for a pattern that matches nothing, and where nothing is left to merge.
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
