"""What no key of a recipe shows alone: keys that contradict each other."""

from epmq_export.errors import Key, did_you_mean
from epmq_export.grids import GRIDS
from epmq_export.merging.tokens import TokenRow
from epmq_export.recipe.merge import RecipeModel, RecipeSlice
from epmq_export.recipe.recipe import Recipe
from epmq_export.recipe.task import prompt_contradictions
from epmq_export.recipe.values import ONNX_GRIDS


def contradictions(recipe: Recipe) -> list[tuple[Key, str]]:
    """What no key shows alone."""
    wrong: list[tuple[Key, str]] = []
    ways = [key for key in ("models", "slices", "modules") if recipe.source.get(key)]
    if len(ways) > 1:
        wrong.append(((ways[1],), f"found it beside {ways[0]}, expected one of models, slices, modules"))
        return wrong
    if not recipe.base_model:
        wrong.append(
            (("base_model",), "found nothing, expected the model that the experts were fine-tuned from")
        )
        return wrong
    if not recipe._listed():
        wrong.append(
            (("models",), "found none, expected the models to merge, or tasks that name their experts")
        )
        return wrong
    if not recipe.experts:
        wrong.append(((ways[0] if ways else "models",), "found only the base, expected an expert"))
    groups: list[tuple[Key, list[RecipeModel], list[RecipeSlice]]] = [((), recipe.models, recipe.slices)]
    groups += [(("modules", name), module.models, module.slices) for name, module in recipe.modules.items()]
    wrong += [
        (
            ("modules", name),
            "found an empty name, expected the first part of tensors' names, or 'default' for all the rest",
        )
        for name in recipe.modules
        if not name.strip()
    ]
    for key, models, slices in groups:
        wrong += _repeated(recipe, (*key, "models"), [model.model for model in models])
        for index, part in enumerate(slices):
            place = (*key, "slices", index, "sources")
            wrong += _repeated(recipe, place, [source.model for source in part.sources])
            base = part.base_model or recipe.base_model
            if not recipe.counts_base and recipe.location(base) not in {
                recipe.location(source.model) for source in part.sources
            }:
                wrong.append(
                    (
                        place,
                        (
                            f"found no layers of the base {base!r}, expected them among the sources: "
                            f"{recipe.merge_method} needs them"
                        ),
                    )
                )
    wrong += _quantization_contradictions(recipe)
    names = [model.model for model in recipe.experts]
    experts = {recipe.location(name) for name in names}
    for name, task in recipe.tasks.items():
        if not name.strip():
            wrong.append((("tasks", name), "found an empty name, expected the name of a task"))
        if recipe.location(task.expert) not in experts:
            wrong.append(
                (
                    ("tasks", name, "expert"),
                    (
                        f"found {task.expert!r}, expected one of the experts in "
                        f"models{did_you_mean(task.expert, names)}"
                    ),
                )
            )
        wrong += [(("tasks", name, *key), message) for key, message in prompt_contradictions(task)]
    return wrong + _tokenizer_contradictions(recipe)


def _repeated(recipe: Recipe, key: Key, names: list[str]) -> list[tuple[Key, str]]:
    wrong: list[tuple[Key, str]] = []
    known: dict[str, int] = {}
    for index, name in enumerate(names):
        first = known.setdefault(recipe.location(name), index)
        if first != index:
            wrong.append(
                (
                    (*key, index, "model"),
                    f"found {name!r} again, expected each model once ({key[-1]}[{first}] is the same)",
                )
            )
    return wrong


def _quantization_contradictions(recipe: Recipe) -> list[tuple[Key, str]]:
    wrong: list[tuple[Key, str]] = []
    quantization = recipe.quantization
    if quantization.bits is not None and "grid" in quantization.model_fields_set:
        wrong.append(
            (
                ("quantization", "grid"),
                "found a grid beside bits, which choose one for each linear, expected one of the two keys",
            )
        )
    least = min(GRIDS[name].bits_per_weight for name in ONNX_GRIDS)
    if (
        quantization.bits is not None
        and quantization.bits < least
        and "onnx" in (recipe.export.formats or ("onnx",))
    ):
        wrong.append(
            (
                ("quantization", "bits"),
                (
                    f"found {quantization.bits:g}, expected at least {least:g}, which ONNX takes: or "
                    "leave it "
                    "out of export.formats"
                ),
            )
        )
    return wrong


def _tokenizer_contradictions(recipe: Recipe) -> list[tuple[Key, str]]:
    wrong: list[tuple[Key, str]] = []
    models = [recipe.base_model, *(model.model for model in recipe.experts)]
    known = {recipe.location(name) for name in models}
    named: list[tuple[Key, str]] = []
    if recipe.tokenizer_source is not None:
        named.append((("tokenizer_source",), recipe.tokenizer_source))
    if recipe.tokenizer is not None:
        named.append((("tokenizer", "source"), recipe.tokenizer.source))
        if recipe.tokenizer_source is not None:
            wrong.append((("tokenizer",), "found it beside tokenizer_source, expected one of them"))
        for token, entry in recipe.tokenizer.tokens.items():
            model = entry.source.model if isinstance(entry.source, TokenRow) else entry.source
            if model not in (None, "zero") and recipe.location(model) not in known:
                wrong.append(
                    (
                        ("tokenizer", "tokens", token, "source"),
                        f"found {model!r}, expected one of the models{did_you_mean(model, models)}",
                    )
                )
    for key, source in named:
        if source not in ("base", "union") and recipe.location(source) not in known:
            wrong.append(
                (
                    key,
                    (
                        f"found {source!r}, expected 'base', 'union' or one of the "
                        f"models{did_you_mean(source, models)}"
                    ),
                )
            )
    return wrong
