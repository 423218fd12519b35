"""What the user asked for, validated: a superset of mergekit's YAML (docs/recipe.md has every key).

Relative paths are relative to the recipe. Every mistake is one sentence with the line, the key, what was found and what was
expected; of several, the first in the file is told, and how many more there are.
"""

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails

from epmq_export import yaml_lines
from epmq_export.calibration.method import DEFAULT_METHOD, PRESETS, Method
from epmq_export.errors import RecipeError
from epmq_export.merging import RULES
from epmq_export.merging.settings import CONVENTIONS
from epmq_export.nearest import did_you_mean
from epmq_export.recipe_values import GRID_NAMES, DataFile, Dtype, Labels, ModelName, Name, Parameters, Place, Share, choice, distinct, location, one_of, shown
from epmq_export.yaml_lines import Document, Key, dotted

_UNSUPPORTED = {"slices", "modules", "tokenizer", "chat_template"}  # mergekit's, at the top level


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class RecipeModel(_Part):
    """One entry of `models`."""

    model: ModelName
    parameters: Parameters = {}
    """As written: scalars, lists, lists of {filter, value}; the merge rule interprets them."""


class RecipeTask(_Part):
    expert: ModelName
    calibration: list[DataFile] = Field(min_length=1)
    """Absolute paths, one or more."""

    labels: Labels = None
    """Name -> the text embedded for it, in the order of the classes."""

    evaluation: Annotated[DataFile | None, Field(validate_default=True)] = None
    """Absolute path."""

    @field_validator("calibration", mode="before")
    @classmethod
    def _one_or_more(cls, value: object) -> object:
        if not isinstance(value, str | list):
            raise ValueError(f"found {shown(value)}, expected the path of a file or a list of paths")
        return [value] if isinstance(value, str) else value

    @field_validator("evaluation")
    @classmethod
    def _needed_by_labels(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is None and info.data.get("labels"):
            raise ValueError("found nothing, expected a file of labelled lines, since the task has labels")
        return value


def _rho(value: object) -> object:
    if value is None or value == "auto":
        return value
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
        raise ValueError(f"found {shown(value)}, expected 'auto' or a number of at least 0")
    return float(value)


class RecipeCalibration(_Part):
    method: Annotated[str, choice(*PRESETS)] = DEFAULT_METHOD
    samples: int = Field(default=64, ge=1)
    """Texts a task."""

    alpha: Share | None = None
    rho: Annotated[float | Literal["auto"] | None, BeforeValidator(_rho)] = None
    damping: float | None = Field(default=None, ge=0, alias="lambda")
    seed: int = Field(default=0, ge=0, lt=2**63)

    @field_validator("alpha", "rho", "damping")
    @classmethod
    def _used(cls, value: float | str | None, info: ValidationInfo) -> float | str | None:
        method = PRESETS.get(info.data.get("method", ""))
        if value is None or method is None or method.target == "experts" or (info.field_name == "damping" and method.rounding == "gptq"):
            return value
        raise ValueError(
            f"found {value if isinstance(value, str) else format(value, 'g')}, which method {method.name!r} does not use, expected the key left out"
        )

    @property
    def settings(self) -> Method:
        """The preset with the recipe's own numbers."""
        return PRESETS[self.method].override(alpha=self.alpha, rho=self.rho, damping=self.damping)


class RecipeQuantization(_Part):
    grid: Annotated[str, choice(*GRID_NAMES)] = "Q4_0"
    embeddings: Annotated[str, choice("F16", "F32", "Q8_0", "Q4_0")] = "F16"
    keep: list[Name] = []
    """fnmatch patterns of the tensor names that stay in F16."""


class RecipeExport(_Part):
    formats: Annotated[list[Annotated[str, choice("gguf", "onnx")]], AfterValidator(distinct)] = Field(default=["gguf", "onnx"], min_length=1)


class RecipeVerify(_Part):
    graph: float = Field(default=1e-3, gt=0)
    """Largest rms relative difference."""

    tasks: Share = 0.02
    """Largest drop in accuracy, 0..1, of a written file below the reference."""

    agreement: Share = 0.98
    """Smallest mean cosine to the reference, for tasks without labels."""


class Recipe(_Part):
    base_model: ModelName = ""
    """For a rule that needs no base, the first model where the recipe names none: its config and tokenizer are used."""

    merge_method: Name = "task_arithmetic"
    merge_convention: Annotated[str, choice(*CONVENTIONS)] = "paper"
    models: list[RecipeModel] = []
    """As written, base included where it is listed; the experts of the tasks where the recipe has no `models`."""

    parameters: Parameters = {}
    dtype: Dtype | None = None
    out_dtype: Dtype | None = None
    tokenizer_source: Name | None = None
    tasks: dict[str, RecipeTask] = {}
    calibration: RecipeCalibration = RecipeCalibration()
    quantization: RecipeQuantization = RecipeQuantization()
    export: RecipeExport = RecipeExport()
    verify: RecipeVerify = RecipeVerify()

    _path: Path = PrivateAttr()
    _document: Document = PrivateAttr()
    _place: Place = PrivateAttr()

    @property
    def path(self) -> Path:
        return self._path

    @property
    def directory(self) -> Path:
        """Absolute; what relative paths are relative to."""
        return self._place.directory

    @property
    def source(self) -> dict[str, Any]:
        """The recipe as written: what JSON can hold."""
        return self._document.data

    @property
    def files(self) -> list[Path]:
        """Every data file that the recipe names, absolute, in its order, once."""
        return list(self._place.files)

    @property
    def experts(self) -> list[RecipeModel]:
        """`models` without the base, which mergekit's files list too; all of them where the rule counts the base as one."""
        if self._counts_base:
            return list(self.models)
        base = self.location(self.base_model)
        return [model for model in self.models if self.location(model.model) != base]

    @property
    def _counts_base(self) -> bool:
        return self.merge_method in RULES and RULES[self.merge_method].counts_base

    def location(self, name: str) -> str:
        """The absolute path of a model directory, or its hub id; `model+adapter` part by part."""
        return location(name, self.directory)

    def mistake(self, key: Key, message: str) -> RecipeError:
        """For a room that finds a value wrong later on: the error `recipe.yaml:12: parameters.density: MESSAGE`."""
        return RecipeError(f"{self.path}:{self._document.line(key)}: {dotted(key)}: {message}")

    def require_tasks(self) -> Self:
        """RecipeError where the recipe has no tasks."""
        if not self.tasks:
            raise self.mistake(("tasks",), "found none, expected at least one task (its expert and a calibration file): only `merge` works without")
        return self


def load_recipe(path: Path) -> Recipe:
    """Read and validate a recipe. RecipeError, with the line, where it is not one."""
    document = yaml_lines.read(path)
    place = Place(path.absolute().parent)
    try:
        recipe = Recipe.model_validate(document.data, context=place)
    except ValidationError as error:
        # A missing key has no line of its own, and may be the one that is misspelled elsewhere: it is told last.
        details = sorted(error.errors(), key=lambda details: (details["type"] == "missing", document.line(details["loc"])))
        raise _refusal(path, document, [_told(each) for each in details]) from None
    recipe._path, recipe._document, recipe._place = path, document, place
    if not recipe.models:
        recipe = recipe.model_copy(update={"models": _models_of(recipe)})
    if "base_model" not in document.data and recipe._counts_base and recipe.models and not recipe.tasks:
        recipe = recipe.model_copy(update={"base_model": recipe.models[0].model})
    if wrong := _contradictions(recipe):
        raise _refusal(path, document, sorted(wrong, key=lambda mistake: document.line(mistake[0])))
    return recipe


def _models_of(recipe: Recipe) -> list[RecipeModel]:
    experts = {recipe.location(task.expert): task.expert for task in reversed(recipe.tasks.values())}
    order = dict.fromkeys(recipe.location(task.expert) for task in recipe.tasks.values())
    return [RecipeModel.model_construct(model=experts[location]) for location in order]


def _contradictions(recipe: Recipe) -> list[tuple[Key, str]]:
    """What no key shows alone."""
    wrong: list[tuple[Key, str]] = []
    if not recipe.base_model:
        wrong.append((("base_model",), "found nothing, expected the model that the experts were fine-tuned from"))
        return wrong
    if not recipe.models:
        wrong.append((("models",), "found none, expected the models to merge, or tasks that name their experts"))
        return wrong
    if not recipe.experts:
        wrong.append((("models",), "found only the base, expected an expert"))
    known: dict[str, int] = {}
    for index, model in enumerate(recipe.models):
        first = known.setdefault(recipe.location(model.model), index)
        if first != index:
            wrong.append((("models", index, "model"), f"found {model.model!r} again, expected each model once (models[{first}] is the same)"))
    names = [model.model for model in recipe.experts]
    experts = {recipe.location(name) for name in names}
    for name, task in recipe.tasks.items():
        if not name.strip():
            wrong.append((("tasks", name), "found an empty name, expected the name of a task"))
        if recipe.location(task.expert) not in experts:
            wrong.append((("tasks", name, "expert"), f"found {task.expert!r}, expected one of the experts in models{did_you_mean(task.expert, names)}"))
    source = recipe.tokenizer_source
    if source == "union":
        wrong.append((("tokenizer_source",), "found 'union', which is not supported yet, expected 'base' or one of the models"))
    elif source not in (None, "base"):
        names = ["base", recipe.base_model, *(model.model for model in recipe.models)]
        if recipe.location(source) not in {recipe.location(name) for name in names}:
            wrong.append((("tokenizer_source",), f"found {source!r}, expected 'base' or one of the models{did_you_mean(source, names)}"))
    return wrong


# Sentences.


def _refusal(path: Path, document: Document, mistakes: list[tuple[Key, str]]) -> RecipeError:
    key, message = mistakes[0]
    while key and isinstance(key[-1], int) and key not in document.lines:
        key = key[:-1]  # an item of a list that was written as one value
    more = len(mistakes) - 1
    rest = f" (and {more} more {'mistake' if more == 1 else 'mistakes'})" if more else ""
    return RecipeError(f"{path}:{document.line(key)}: {dotted(key)}: {message}{rest}")


_EXPECTED = {
    "bool_type": "true or false",
    "dict_type": "a mapping",
    "finite_number": "a finite number",
    "float_type": "a number",
    "greater_than": "a number above {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "int_type": "a whole number",
    "less_than": "a number below {lt:g}",
    "less_than_equal": "at most {le:g}",
    "list_type": "a list",
    "model_type": "a mapping",
    "string_type": "text",
    "too_short": "at least {min_length:g}",
}


def _told(details: ErrorDetails) -> tuple[Key, str]:
    """The key and the sentence of one of pydantic's errors."""
    key: Key = details["loc"]
    context = details.get("ctx", {})
    match details["type"]:
        case "value_error":
            return key, str(context["error"])
        case "missing":
            return key, "found nothing, expected this key"
        case "extra_forbidden" if len(key) == 1 and key[0] in _UNSUPPORTED:
            return key, "found a key of mergekit that is not supported yet, expected it left out"
        case "extra_forbidden":
            valid = _keys(key)
            return key, f"found an unknown key, expected {one_of(valid)}{did_you_mean(str(key[-1]), valid)}"
    expected = _EXPECTED.get(details["type"])
    return key, f"found {shown(details['input'])}, expected {expected.format(**context)}" if expected else details["msg"]


def _keys(key: Key) -> list[str]:
    """The keys that stand beside the last part of `key`."""
    match key[:-1]:
        case ():
            return keys(Recipe)
        case ("models", _):
            return keys(RecipeModel)
        case ("tasks", _):
            return keys(RecipeTask)
        case (section, *_):
            return keys(type(Recipe.model_fields[str(section)].default))
    raise AssertionError(key)


def keys(part: type[BaseModel]) -> list[str]:
    """The keys of a mapping in a recipe, as written there."""
    return [info.alias or name for name, info in part.model_fields.items()]
