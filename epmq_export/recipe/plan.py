"""What is merged into what: a recipe's `models`, `slices` or `modules`, each with the settings of its
rule.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from epmq_export.errors import Key, RecipeError
from epmq_export.merging.parameters import layered, parameter
from epmq_export.merging.plan import WHOLE, Plan, Slice, Strand
from epmq_export.merging.registry import RULES, merge_settings
from epmq_export.merging.settings import Number
from epmq_export.recipe.merge import RecipeModel, RecipeSlice, RecipeSource
from epmq_export.recipe.recipe import Recipe


@dataclass(frozen=True)
class _Level:
    """Parameters for more than one model, or of one."""

    key: Key
    """Where the recipe has them."""

    parameters: Mapping[str, Any]


def plan_of(recipe: Recipe) -> Plan:
    """RecipeError, with the line, for what the rule cannot take."""
    whole = _Level(("parameters",), recipe.parameters)
    if recipe.slices:
        return Plan({"default": _of_slices(recipe, (), recipe.slices, [whole])})
    if not recipe.modules:
        return Plan({WHOLE: [_of_models(recipe, (), recipe.models, [whole])]})
    modules: dict[str, Sequence[Slice]] = {}
    for name, module in recipe.modules.items():
        key, levels = ("modules", name), [_Level(("modules", name, "parameters"), module.parameters), whole]
        modules[name] = (
            _of_slices(recipe, key, module.slices, levels)
            if module.slices
            else [_of_models(recipe, key, module.models, levels)]
        )
    return Plan(modules)


def _weighted(recipe: Recipe) -> bool:
    """Whether the recipe sets a weight of an expert anywhere: what then is the default holds for all of its
    slices and modules.
    """
    modules = list(recipe.modules.values())
    slices = [*recipe.slices, *(part for module in modules for part in module.slices)]
    models: list[RecipeModel | RecipeSource] = [
        *recipe.models,
        *(model for module in modules for model in module.models),
    ]
    models += [source for part in slices for source in part.sources]
    base = recipe.location(recipe.base_model)
    mappings = [
        recipe.parameters,
        *(module.parameters for module in modules),
        *(part.parameters for part in slices),
    ]
    mappings += [model.parameters for model in models if recipe.location(model.model) != base]
    return any("weight" in mapping for mapping in mappings)


def _of_models(recipe: Recipe, key: Key, models: Sequence[RecipeModel], levels: Sequence[_Level]) -> Slice:
    strands = [
        (Strand((*key, "models", i), model.model, recipe.location(model.model), None), model.parameters)
        for i, model in enumerate(models)
    ]
    base = Strand(("base_model",), recipe.base_model, recipe.location(recipe.base_model), None)
    return _slice(recipe, (*key, "models"), base, strands, levels)


def _of_slices(
    recipe: Recipe, key: Key, slices: Iterable[RecipeSlice], levels: Sequence[_Level]
) -> list[Slice]:
    result = []
    for index, part in enumerate(slices):
        place = (*key, "slices", index, "sources")
        strands = []
        for number, source in enumerate(part.sources):
            first, last = source.layer_range
            strands.append(
                (
                    Strand((*place, number), source.model, recipe.location(source.model), (first, last)),
                    source.parameters,
                )
            )
        base = recipe.location(part.base_model or recipe.base_model)
        own = next((strand for strand, _ in strands if strand.location == base), strands[0][0])
        result.append(
            _slice(
                recipe, place, own, strands, [_Level((*place[:-1], "parameters"), part.parameters), *levels]
            )
        )
    return result


def _slice(
    recipe: Recipe,
    key: Key,
    base: Strand,
    strands: Sequence[tuple[Strand, Mapping[str, Any]]],
    levels: Sequence[_Level],
) -> Slice:
    experts = [
        (strand, own) for strand, own in strands if recipe.counts_base or strand.location != base.location
    ]
    try:
        models = [(strand.name, own) for strand, own in experts]
        parameters = layered(*(level.parameters for level in levels))
        settings = merge_settings(
            recipe.merge_method, parameters, models, recipe.merge_convention, _weighted(recipe)
        )
    except RecipeError as error:
        raise recipe.mistake(_place(recipe, str(error), key, experts, levels), str(error)) from None
    return Slice(settings, base, [strand for strand, _ in experts])


def _place(
    recipe: Recipe,
    sentence: str,
    key: Key,
    experts: Sequence[tuple[Strand, Mapping[str, Any]]],
    levels: Sequence[_Level],
) -> Key:
    """The key that a sentence about settings speaks of: the rule, the models, a number of one of them, or one
    of a level.
    """
    if sentence.startswith("merge_method"):
        return ("merge_method",)
    if sentence.startswith("models"):
        return key
    unknown = re.search(r""": (['"])(.+)\1 is unknown to """, sentence)
    name = unknown.group(2) if unknown else sentence.partition(" ")[0]
    of_one = [
        _Level((*strand.key, "parameters"), own)
        for strand, own in experts
        if sentence.startswith((f"{name} of {strand.name} ", f"parameters of {strand.name}:"))
    ]
    setting = [level for level in (*of_one, *levels) if name in level.parameters]
    # With filters, several levels may count for a number: the first of them that is refused by itself.
    refused = [
        level for level in setting if _refused(recipe.merge_method, name, level.parameters[name], sentence)
    ]
    return (*(refused or setting or levels[-1:])[0].key, name)


def _refused(rule: str, name: str, setting: object, sentence: str) -> bool:
    number, where = RULES[rule].parameters.get(name, Number()), sentence.partition(" is ")[0]
    try:
        number.check(where, parameter(where, [setting], 0.0, number.flag).values)
    except RecipeError as error:
        return str(error) == sentence
    return False
