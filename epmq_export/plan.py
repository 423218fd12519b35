"""What is merged into what: a recipe's `models`, `slices` or `modules`, each with the settings of its rule."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from epmq_export.errors import RecipeError
from epmq_export.merging import MergeSettings, merge_settings
from epmq_export.merging.parameters import layered
from epmq_export.recipe import Recipe
from epmq_export.recipe_merge import RecipeModel, RecipeSlice, RecipeSource
from epmq_export.yaml_lines import Key

WHOLE = ""
"""The module of a recipe that merges models as they are."""


@dataclass(frozen=True)
class Strand:
    """One model of a slice."""

    key: Key
    """Where the recipe names it."""

    name: str
    location: str
    layers: tuple[int, int] | None
    """The first, and the one after the last; None: all of the model's."""


@dataclass(frozen=True)
class Slice:
    """Consecutive layers of the merge."""

    settings: MergeSettings
    base: Strand
    """For a rule that knows no base, the model whose names, shapes and dtypes count: the base if it is there, else the first."""

    experts: Sequence[Strand]
    """In the order of the settings."""


@dataclass(frozen=True)
class Plan:
    modules: Mapping[str, Sequence[Slice]]
    """By name; WHOLE alone where models are merged as they are."""

    def keeps_layers(self) -> bool:
        """Whether each layer of the merge is made of the same layer of every model."""
        for slices in self.modules.values():
            first = 0
            for part in slices:
                ranges = {strand.layers for strand in (part.base, *part.experts)}
                if ranges == {None}:
                    continue
                start, stop = ranges.pop() or (-1, -1)
                if ranges or start != first:
                    return False
                first = stop
        return True


def plan_of(recipe: Recipe) -> Plan:
    """RecipeError, with the line, for what the rule cannot take."""
    if recipe.slices:
        return Plan({"default": _of_slices(recipe, (), recipe.slices, [recipe.parameters])})
    if not recipe.modules:
        return Plan({WHOLE: [_of_models(recipe, (), recipe.models, [recipe.parameters])]})
    modules: dict[str, Sequence[Slice]] = {}
    for name, module in recipe.modules.items():
        key, levels = ("modules", name), [module.parameters, recipe.parameters]
        modules[name] = _of_slices(recipe, key, module.slices, levels) if module.slices else [_of_models(recipe, key, module.models, levels)]
    return Plan(modules)


def _weighted(recipe: Recipe) -> bool:
    """Whether the recipe sets a weight of an expert anywhere: what then is the default holds for all of its slices and modules."""
    modules = list(recipe.modules.values())
    slices = [*recipe.slices, *(part for module in modules for part in module.slices)]
    models: list[RecipeModel | RecipeSource] = [*recipe.models, *(model for module in modules for model in module.models)]
    models += [source for part in slices for source in part.sources]
    base = recipe.location(recipe.base_model)
    levels = [recipe.parameters, *(module.parameters for module in modules), *(part.parameters for part in slices)]
    levels += [model.parameters for model in models if recipe.location(model.model) != base]
    return any("weight" in level for level in levels)


def _of_models(recipe: Recipe, key: Key, models: Sequence[RecipeModel], levels: Sequence[Mapping[str, Any]]) -> Slice:
    strands = [(Strand((*key, "models", i), model.model, recipe.location(model.model), None), model.parameters) for i, model in enumerate(models)]
    base = Strand(("base_model",), recipe.base_model, recipe.location(recipe.base_model), None)
    return _slice(recipe, (*key, "models"), base, strands, levels)


def _of_slices(recipe: Recipe, key: Key, slices: Iterable[RecipeSlice], levels: Sequence[Mapping[str, Any]]) -> list[Slice]:
    result = []
    for index, part in enumerate(slices):
        place = (*key, "slices", index, "sources")
        strands = []
        for number, source in enumerate(part.sources):
            first, last = source.layer_range
            strands.append((Strand((*place, number), source.model, recipe.location(source.model), (first, last)), source.parameters))
        base = recipe.location(part.base_model or recipe.base_model)
        own = next((strand for strand, _ in strands if strand.location == base), strands[0][0])
        result.append(_slice(recipe, place, own, strands, [part.parameters, *levels]))
    return result


def _slice(recipe: Recipe, key: Key, base: Strand, strands: Sequence[tuple[Strand, Mapping[str, Any]]], levels: Sequence[Mapping[str, Any]]) -> Slice:
    experts = [(strand, own) for strand, own in strands if recipe.counts_base or strand.location != base.location]
    try:
        models = [(strand.name, own) for strand, own in experts]
        settings = merge_settings(recipe.merge_method, layered(*levels), models, recipe.merge_convention, _weighted(recipe))
    except RecipeError as error:
        raise recipe.mistake(_place(str(error), key, experts), str(error)) from None
    return Slice(settings, base, [strand for strand, _ in experts])


def _place(sentence: str, key: Key, experts: Sequence[tuple[Strand, Mapping[str, Any]]]) -> Key:
    """The key that a sentence about settings speaks of: the rule, the models, a number of one of them, or one of all."""
    if sentence.startswith("merge_method"):
        return ("merge_method",)
    if sentence.startswith("models"):
        return key
    words = re.findall(r"\w+", sentence)
    for strand, own in experts:
        named = [word for word in words if word in own]
        if f" of {strand.name}" in sentence and named:
            return (*strand.key, "parameters", named[0])
    return ("parameters", next((word for word in words if word != "parameters"), ""))
