"""The reading of a recipe: its YAML, the check of each key by itself, and the check of keys together."""

from pathlib import Path

from pydantic import ValidationError

from epmq_export.errors import RecipeError
from epmq_export.merging.registry import RULES
from epmq_export.recipe import yaml_lines
from epmq_export.recipe.contradictions import contradictions
from epmq_export.recipe.merge import RecipeModel
from epmq_export.recipe.mistakes import as_written, refusal, told
from epmq_export.recipe.recipe import Recipe
from epmq_export.recipe.values import Context
from epmq_export.recipe.yaml_lines import Document


def load_recipe(path: Path) -> Recipe:
    """Read and validate a recipe. Raises RecipeError, with the line, where it is not one."""
    document = yaml_lines.read(path)
    context = Context(path.absolute().parent)
    try:
        written = Recipe.model_validate(document.data, context=context)
    except ValidationError as error:
        raise _refusal(path, document, error) from None
    recipe = _completed(written.with_source(path, document, context))
    if wrong := contradictions(recipe):
        raise refusal(path, document, sorted(wrong, key=lambda mistake: document.line(mistake[0])))
    return recipe


def _refusal(path: Path, document: Document, error: ValidationError) -> RecipeError:
    """Return the error that tells of the first of pydantic's mistakes, in the order of the file.

    A missing key has no line of its own, and may be the one that is misspelled elsewhere, so it comes last.
    """
    mistakes = [(each["type"] == "missing", *told(each, Recipe)) for each in error.errors()]
    mistakes.sort(key=lambda mistake: (mistake[0], document.line(as_written(mistake[1], document))))
    return refusal(path, document, [(key, message) for _, key, message in mistakes])


def _completed(recipe: Recipe) -> Recipe:
    """Return the recipe with the models and the base that it means but does not write."""
    if not recipe.listed():
        recipe = recipe.model_copy(update={"models": _models_of(recipe)})
    if "base_model" not in recipe.source and recipe.counts_base and recipe.listed() and not recipe.tasks:
        return recipe.model_copy(update={"base_model": recipe.listed()[0].model})
    if (
        recipe.counts_base
        and recipe.merge_convention == "mergekit"
        and RULES[recipe.merge_method].experts[1] != 1
    ):
        return _with_base(recipe)
    return recipe


def _models_of(recipe: Recipe) -> list[RecipeModel]:
    """Return the experts of the tasks, each once, in the order of the tasks."""
    experts = {recipe.location(task.expert): task.expert for task in reversed(recipe.tasks.values())}
    order = dict.fromkeys(recipe.location(task.expert) for task in recipe.tasks.values())
    return [RecipeModel.model_construct(model=experts[location]) for location in order]


def _with_base(recipe: Recipe) -> Recipe:
    """Return the recipe with its base among the models, if it lists models.

    Under mergekit's convention, a base that `models` does not list is merged even by a rule that knows no
    base.
    """

    def listed(models: list[RecipeModel]) -> list[RecipeModel]:
        known = {recipe.location(model.model) for model in models}
        missing = bool(models) and recipe.location(recipe.base_model) not in known
        return [*models, RecipeModel.model_construct(model=recipe.base_model)] if missing else models

    modules = {
        name: module.model_copy(update={"models": listed(module.models)})
        for name, module in recipe.modules.items()
    }
    return recipe.model_copy(update={"models": listed(recipe.models), "modules": modules})
