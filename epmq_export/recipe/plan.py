"""The plan of a recipe's merge: its `models`, `slices` or `modules`, each with the settings of its rule."""

from collections.abc import Iterable, Sequence

from epmq_export.errors import Key
from epmq_export.merging.parameters import Level
from epmq_export.merging.plan import WHOLE, Plan, Slice, Strand
from epmq_export.merging.registry import merge_settings
from epmq_export.recipe.merge import RecipeModel, RecipeSlice, RecipeSource
from epmq_export.recipe.recipe import Recipe


def plan_of(recipe: Recipe) -> Plan:
    """Return the plan of a recipe's merge. Raises RecipeError, with the line, for settings that the rule
    cannot take.
    """
    with recipe.located():
        key, modules = _modules(recipe)
    return Plan(base=_base(recipe), counts_base=recipe.counts_base, modules=modules, key=key)


def _modules(recipe: Recipe) -> tuple[Key, dict[str, Sequence[Slice]]]:
    """Return the key at which the recipe has its modules, and the slices of each."""
    whole = Level(recipe.parameters)
    if recipe.slices:
        return ("slices",), {"default": _of_slices(recipe, (), recipe.slices, [whole])}
    if not recipe.modules:
        return ("models",), {WHOLE: [_of_models(recipe, (), recipe.models, [whole])]}
    modules: dict[str, Sequence[Slice]] = {}
    for name, module in recipe.modules.items():
        key = ("modules", name)
        levels = [Level(module.parameters, (*key, "parameters")), whole]
        modules[name] = (
            _of_slices(recipe, key, module.slices, levels)
            if module.slices
            else [_of_models(recipe, key, module.models, levels)]
        )
    return ("modules",), modules


def _base(recipe: Recipe) -> Strand:
    return Strand(
        key=("base_model",),
        name=recipe.base_model,
        location=recipe.location(recipe.base_model),
        layers=None,
    )


def _weighted(recipe: Recipe) -> bool:
    """Return whether the recipe sets the weight of an expert anywhere. The default that follows from it holds
    for all slices and modules.
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


def _of_models(recipe: Recipe, key: Key, models: Sequence[RecipeModel], levels: Sequence[Level]) -> Slice:
    place = (*key, "models")
    strands = [_strand(recipe, (*place, index), model, None) for index, model in enumerate(models)]
    return _slice(recipe, place, _base(recipe), strands, levels)


def _of_slices(
    recipe: Recipe, key: Key, slices: Iterable[RecipeSlice], levels: Sequence[Level]
) -> list[Slice]:
    result = []
    for index, part in enumerate(slices):
        inside = (*key, "slices", index)
        place = (*inside, "sources")
        strands = []
        for number, source in enumerate(part.sources):
            first, last = source.layer_range
            strands.append(_strand(recipe, (*place, number), source, (first, last)))
        base = recipe.location(part.base_model or recipe.base_model)
        own = next((strand for strand, _ in strands if strand.location == base), strands[0][0])
        result.append(
            _slice(recipe, place, own, strands, [Level(part.parameters, (*inside, "parameters")), *levels])
        )
    return result


def _strand(
    recipe: Recipe, key: Key, model: RecipeModel | RecipeSource, layers: tuple[int, int] | None
) -> tuple[Strand, Level]:
    """Return a model of a slice, and its own parameters."""
    strand = Strand(key=key, name=model.model, location=recipe.location(model.model), layers=layers)
    return strand, Level(model.parameters, (*key, "parameters"))


def _slice(
    recipe: Recipe,
    key: Key,
    base: Strand,
    strands: Sequence[tuple[Strand, Level]],
    levels: Sequence[Level],
) -> Slice:
    """Return a slice of the models at `key`. Raises SettingError for settings that the rule cannot take."""
    experts = [
        (strand, own) for strand, own in strands if recipe.counts_base or strand.location != base.location
    ]
    settings = merge_settings(
        recipe.merge_method,
        levels,
        [(strand.name, own) for strand, own in experts],
        recipe.merge_convention,
        weighted=_weighted(recipe),
        key=key,
    )
    return Slice(settings, base, [strand for strand, _ in experts])
