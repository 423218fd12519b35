"""The check of a recipe for keys that contradict each other. No key shows these mistakes alone."""

from collections.abc import Iterator, Sequence

from epmq_export.errors import Key, did_you_mean
from epmq_export.grids import BY_NAME_ONLY, GRIDS
from epmq_export.merging.tokens import TokenRow
from epmq_export.recipe.merge import RecipeModel, RecipeSlice
from epmq_export.recipe.recipe import Recipe
from epmq_export.recipe.task import prompt_contradictions
from epmq_export.recipe.values import ONNX_GRIDS

MEAN = "average"
"""The name that the mean of all tasks has in every table of scores."""

Mistake = tuple[Key, str]
"""A key, and the sentence that tells what is wrong there."""


def contradictions(recipe: Recipe) -> list[Mistake]:
    """Return every mistake that shows only where keys are read together."""
    if nothing := _nothing_to_merge(recipe):
        return [nothing]
    return [*_models(recipe), *_quantization(recipe), *_tasks(recipe), *_tokenizer(recipe)]


def _ways(recipe: Recipe) -> list[str]:
    """Return the keys that say what is merged, of `models`, `slices` and `modules`, which the recipe has."""
    return [key for key in ("models", "slices", "modules") if recipe.source.get(key)]


def _nothing_to_merge(recipe: Recipe) -> Mistake | None:
    """Return the mistake of a recipe that does not tell its models. None of the other checks can read such a
    recipe.
    """
    ways = _ways(recipe)
    if len(ways) > 1:
        return (ways[1],), f"found it beside {ways[0]}, expected one of models, slices, modules"
    if not recipe.base_model:
        return ("base_model",), "found nothing, expected the model that the experts were fine-tuned from"
    if not recipe.listed():
        return ("models",), "found none, expected the models to merge, or tasks that name their experts"
    return None


def _models(recipe: Recipe) -> Iterator[Mistake]:
    if not recipe.experts:
        yield (next(iter(_ways(recipe)), "models"),), "found only the base, expected an expert"
    for name in recipe.modules:
        if not name.strip():
            yield (
                ("modules", name),
                (
                    "found an empty name, expected the first part of tensors' names, or 'default' for all "
                    "the rest"
                ),
            )
    yield from _of_one_stack(recipe, (), recipe.models, recipe.slices)
    for name, module in recipe.modules.items():
        yield from _of_one_stack(recipe, ("modules", name), module.models, module.slices)


def _of_one_stack(
    recipe: Recipe, key: Key, models: Sequence[RecipeModel], slices: Sequence[RecipeSlice]
) -> Iterator[Mistake]:
    yield from _repeated(recipe, (*key, "models"), [model.model for model in models])
    for index, part in enumerate(slices):
        place = (*key, "slices", index, "sources")
        names = [source.model for source in part.sources]
        yield from _repeated(recipe, place, names)
        base = part.base_model or recipe.base_model
        if not recipe.counts_base and recipe.location(base) not in map(recipe.location, names):
            yield (
                place,
                f"found no layers of the base {base!r}, expected them among the sources: "
                f"{recipe.merge_method} needs them",
            )


def _repeated(recipe: Recipe, key: Key, names: Sequence[str]) -> Iterator[Mistake]:
    known: dict[str, int] = {}
    for index, name in enumerate(names):
        first = known.setdefault(recipe.location(name), index)
        if first != index:
            yield (
                (*key, index, "model"),
                f"found {name!r} again, expected each model once ({key[-1]}[{first}] is the same)",
            )


def _quantization(recipe: Recipe) -> Iterator[Mistake]:
    quantization = recipe.quantization
    if "grid" in quantization.model_fields_set and quantization.chooses:
        beside, choose = ("size", "chooses") if quantization.bits is None else ("bits", "choose")
        yield (
            ("quantization", "grid"),
            f"found a grid beside {beside}, which {choose} one for each linear, expected one of the two keys",
        )
    if quantization.bits is None:
        return
    if quantization.size is not None:
        yield ("quantization", "size"), "found a size beside bits, expected one of the two keys"
    least = min(GRIDS[name].bits_per_weight for name in ONNX_GRIDS if name not in BY_NAME_ONLY)
    if quantization.bits < least and "onnx" in (recipe.export.formats or ("onnx",)):
        yield (
            ("quantization", "bits"),
            f"found {quantization.bits:g}, expected at least {least:g}, which ONNX takes: or leave it out of "
            "export.formats",
        )


def _tasks(recipe: Recipe) -> Iterator[Mistake]:
    names = [model.model for model in recipe.experts]
    experts = {recipe.location(name) for name in names}
    for name, task in recipe.tasks.items():
        if not name.strip():
            yield ("tasks", name), "found an empty name, expected the name of a task"
        if name == MEAN:
            yield (
                ("tasks", name),
                f"found a task of this name, expected another: {MEAN} is the mean of all tasks",
            )
        if recipe.location(task.expert) not in experts:
            yield (
                ("tasks", name, "expert"),
                f"found {task.expert!r}, expected one of the experts in "
                f"models{did_you_mean(task.expert, names)}",
            )
        for key, message in prompt_contradictions(task):
            yield ("tasks", name, *key), message


def _tokenizer(recipe: Recipe) -> Iterator[Mistake]:
    models = [recipe.base_model, *(model.model for model in recipe.experts)]
    known = {recipe.location(name) for name in models}
    sources: list[tuple[Key, str]] = []
    if recipe.tokenizer_source is not None:
        sources.append((("tokenizer_source",), recipe.tokenizer_source))
    if recipe.tokenizer is not None:
        sources.append((("tokenizer", "source"), recipe.tokenizer.source))
        if recipe.tokenizer_source is not None:
            yield ("tokenizer",), "found it beside tokenizer_source, expected one of them"
        for token, entry in recipe.tokenizer.tokens.items():
            model = entry.source.model if isinstance(entry.source, TokenRow) else entry.source
            if model not in (None, "zero") and recipe.location(model) not in known:
                yield (
                    ("tokenizer", "tokens", token, "source"),
                    f"found {model!r}, expected one of the models{did_you_mean(model, models)}",
                )
    for key, source in sources:
        if source not in ("base", "union") and recipe.location(source) not in known:
            yield (
                key,
                f"found {source!r}, expected 'base', 'union' or one of the "
                f"models{did_you_mean(source, models)}",
            )
