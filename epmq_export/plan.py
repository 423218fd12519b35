"""What is merged into what: a recipe's `models`, `slices` or `modules`, each with the settings of its rule."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from epmq_export.errors import RecipeError
from epmq_export.merging import MergeSettings, merge_settings
from epmq_export.merging.parameters import layered
from epmq_export.recipe import Recipe
from epmq_export.recipe_merge import RecipeModel, RecipeSlice
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
    """RecipeError for what the rule cannot take."""
    try:
        if not recipe.modules and not recipe.slices:
            return Plan({WHOLE: [_of_models(recipe, (), recipe.models, recipe.parameters)]})
        if recipe.slices:
            return Plan({"default": _of_slices(recipe, (), recipe.slices, recipe.parameters)})
        modules = {}
        for name, module in recipe.modules.items():
            key, parameters = ("modules", name), layered(module.parameters, recipe.parameters)
            modules[name] = _of_slices(recipe, key, module.slices, parameters) if module.slices else [_of_models(recipe, key, module.models, parameters)]
        return Plan(modules)
    except RecipeError as error:
        raise RecipeError(f"{recipe.path}: {error}") from None


def _of_models(recipe: Recipe, key: Key, models: Sequence[RecipeModel], parameters: Mapping[str, Any]) -> Slice:
    strands = [(Strand((*key, "models", i), model.model, recipe.location(model.model), None), model.parameters) for i, model in enumerate(models)]
    base = Strand(("base_model",), recipe.base_model, recipe.location(recipe.base_model), None)
    return _slice(recipe, base, strands, parameters)


def _of_slices(recipe: Recipe, key: Key, slices: Iterable[RecipeSlice], parameters: Mapping[str, Any]) -> list[Slice]:
    result = []
    for index, part in enumerate(slices):
        strands = []
        for number, source in enumerate(part.sources):
            first, last = source.layer_range
            place = (*key, "slices", index, "sources", number)
            strands.append((Strand(place, source.model, recipe.location(source.model), (first, last)), source.parameters))
        base = recipe.location(part.base_model or recipe.base_model)
        own = next((strand for strand, _ in strands if strand.location == base), strands[0][0])
        result.append(_slice(recipe, own, strands, layered(part.parameters, parameters)))
    return result


def _slice(recipe: Recipe, base: Strand, strands: Sequence[tuple[Strand, Mapping[str, Any]]], parameters: Mapping[str, Any]) -> Slice:
    experts = [(strand, own) for strand, own in strands if recipe.counts_base or strand.location != base.location]
    settings = merge_settings(recipe.merge_method, parameters, [(strand.name, own) for strand, own in experts], recipe.merge_convention)
    return Slice(settings, base, [strand for strand, _ in experts])
