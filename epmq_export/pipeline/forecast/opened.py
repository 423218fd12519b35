"""The models of a recipe that are here, opened by their headers and held against each other."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from epmq_export.calibration.task_vectors import task_vectors
from epmq_export.models.blocks import linears
from epmq_export.models.family import Family
from epmq_export.pipeline.classifiers import classifier_notes, with_classifiers
from epmq_export.pipeline.forecast import inventory as local
from epmq_export.pipeline.forecast.inventory import Found
from epmq_export.pipeline.models import (
    frozen_tensors,
    lost_tokens,
    require_changes,
    require_no_own_head,
    require_same_settings,
    require_whole,
)
from epmq_export.pipeline.registry import Registry
from epmq_export.pipeline.trained_on import of_another_base
from epmq_export.recipe.recipe import Recipe
from epmq_export.tensors.checkpoint import Checkpoint, open_checkpoint
from epmq_export.tensors.compatible import require_fit, require_same_vocabulary
from epmq_export.tensors.source import TypedSource, renamed, without


@dataclass(frozen=True)
class Opened:
    """The models that are here, under canonical names, and a sentence for each setting that differs and is
    told.
    """

    family: Family
    """The family with the classifiers of the experts that are here."""

    base: TypedSource | None = None
    experts: dict[str, TypedSource] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def open_models(recipe: Recipe, family: Family, models: Sequence[Found], registry: Registry) -> Opened:
    """Raise InputError for a model that is here and does not fit, by headers, settings and tokenizers only.
    Return those that are here.
    """
    base, *experts = models
    if not base.whole:
        return Opened(family)
    opened = open_checkpoint(
        local.local_location(base, recipe.location(recipe.base_model)),
        open_gguf=registry.open_gguf,
        naming_of=registry.naming_of,
    )
    source = renamed(opened, family.canonical)
    require_whole(opened, source, family)
    held = set(frozen_tensors(recipe, source, family.frozen))
    moving = without(source, held)
    result = Opened(family, moving)
    here: dict[str, Checkpoint] = {}
    for found, model in zip(experts, recipe.experts, strict=True):
        if not found.whole:
            continue
        expert: Checkpoint = open_checkpoint(
            local.local_location(found, recipe.location(model.model)),
            opened,
            open_gguf=registry.open_gguf,
            naming_of=registry.naming_of,
        )
        here[recipe.location(model.model)] = expert
        result.notes.extend(
            require_same_settings(opened, expert, model.model, registry.require_same_settings)
        )
        require_no_own_head(opened, expert)
        require_changes(expert, [name for name in opened.names() if family.canonical(name) in moving.names()])
        require_same_vocabulary(opened.model_directory, expert.directory, model.model)
        result.experts[model.model] = without(renamed(expert, family.canonical), held)
        require_fit(moving, result.experts[model.model], model.model)
    result.notes.extend([*of_another_base(recipe, opened, here), *lost_tokens(recipe, opened, here)])
    family, _ = with_classifiers(recipe, family, here)
    result.notes.extend(classifier_notes(family))
    return replace(result, family=family)


def said_of_task_vectors(family: Family, opened: Opened) -> str | None:
    """Return in words how long the task vectors of the experts that are here are, measured on the linears of
    the middle block that has some; None where there are none. What is to be warned of is added to the notes.
    """
    if opened.base is None or not opened.experts or not linears(family):
        return None
    middle = middle_linears(family, opened.base)
    vectors = task_vectors(opened.base, [*opened.experts.values()], middle)
    experts = [*opened.experts]
    opened.notes.extend(vectors.warnings(experts))
    return f"{vectors.sentence(experts)} (measured on {len(middle)} linears in the middle)"


def middle_linears(family: Family, base: TypedSource) -> list[str]:
    """Return the names of the linears that are merged of the middle one of the blocks that have some."""
    names = linears(family)
    blocks = [
        [name for name in names if name.startswith(block.prefix)] for block in family.blocks if block.prefix
    ]
    held = [found for found in blocks if found] or [names]
    merged = frozenset(base.names())
    return [name for name in held[len(held) // 2] if name in merged]
