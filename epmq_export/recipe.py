"""What the user asked for, validated: a superset of mergekit's YAML (docs/recipe.md has every key).

Relative paths are relative to the recipe. Every mistake is one sentence with the line, the key, what was found and what was
expected; of several, the first in the file is told, and how many more there are.
"""

import json
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, PrivateAttr, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails

from epmq_export import yaml_lines
from epmq_export.calibration.method import DEFAULT_METHOD, PRESETS, Method
from epmq_export.errors import RecipeError
from epmq_export.grids import GRIDS
from epmq_export.nearest import did_you_mean, near_file
from epmq_export.yaml_lines import Document, Key, dotted, encodable

_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(@[\w./-]+)?", re.ASCII)
_UNSUPPORTED = {"slices", "modules", "tokenizer", "chat_template"}  # mergekit's, at the top level
_T = TypeVar("_T")


@dataclass(frozen=True)
class _Place:
    """What validation knows of the world: where relative paths start, and the data files met so far."""

    directory: Path
    files: list[Path] = field(default_factory=list)

    @classmethod
    def of(cls, info: ValidationInfo) -> "_Place":
        assert isinstance(info.context, cls)
        return info.context


# Values. A validator's ValueError is the part of the sentence after the key.


def _choice(*choices: str) -> AfterValidator:
    def check(value: str) -> str:
        if value not in choices:
            raise ValueError(f"found {value!r}, expected {_one_of(choices)}{did_you_mean(value, choices)}")
        return value

    return AfterValidator(check)


def _distinct(values: list[_T]) -> list[_T]:
    seen: set[_T] = set()
    for value in values:
        if value in seen:
            raise ValueError(f"found {value!r} twice, expected it once")
        seen.add(value)
    return values


def _filled(value: str) -> str:
    if not value.strip():
        raise ValueError("found empty text, expected a name")
    return value


def _data_file(value: object, info: ValidationInfo) -> object:
    """The absolute path of a data file that exists."""
    if not isinstance(value, str):
        raise ValueError(f"found {_shown(value)}, expected the path of a file")
    place = _Place.of(info)
    path = _absolute(value, place.directory)
    if _is(path.is_dir):
        raise ValueError(f"found the directory {value!r}, expected a file")
    if not _is(path.is_file):
        raise ValueError(f"found no file {value!r}, expected one, relative to the recipe{near_file(path, value)}")
    if path not in place.files:
        place.files.append(path)
    return path


def _model(value: str, info: ValidationInfo) -> str:
    """A directory that exists, a hub id, or one of these + an adapter."""
    directory = _Place.of(info).directory
    for part in _parts(value, directory):
        if _is_local(part, directory):
            path = _absolute(part, directory)
            if _is(path.is_file):
                raise ValueError(f"found the file {part!r}, expected the directory of a model")
            if not _is(path.is_dir):
                raise ValueError(f"found no model directory {part!r}, expected one, relative to the recipe{near_file(path, part)}")
        elif not _HUB_ID.fullmatch(part):
            raise ValueError(f"found {part!r}, expected a model directory or a hub id{near_file(_absolute(part, directory), part)}")
    return value


def _labels(value: object, info: ValidationInfo) -> object:
    """Label names with the text embedded for each, from a list of names, a mapping, or a JSON file with either."""
    where = ""
    if isinstance(value, str):
        path = _data_file(value, info)
        assert isinstance(path, Path)
        where = f" in {path.name}"
        try:
            value = json.loads(path.read_text(encoding="utf-8-sig"))
        except (OSError, ValueError, RecursionError) as error:
            raise ValueError(f"found the file {path.name}, which is not readable as JSON ({error})") from None
    if isinstance(value, list):
        for name in value:
            if not isinstance(name, str):
                raise ValueError(f"found the label {_shown(name)}{where}, expected text: quote it")
        value = dict.fromkeys(_distinct(value))
    if not isinstance(value, dict):
        raise ValueError(f"found {_shown(value)}{where}, expected a list of names, a mapping of names to texts, or the path of a JSON file")
    if len(value) < 2:
        raise ValueError(f"found {len(value)} labels{where}, expected at least 2")
    names: dict[str, str] = {}
    for name, written in value.items():
        text = name.replace("_", " ") if written is None else written
        if not isinstance(text, str) or not text.strip() or not name.strip() or not encodable(name + text):
            raise ValueError(f"found {_shown(text)} for label {name!r}{where}, expected text")
        if text in names:
            raise ValueError(f"found the text {text!r} for the labels {names[text]!r} and {name!r}{where}, expected one for each")
        names[text] = name
    return {name: text for text, name in names.items()}


Name = Annotated[str, AfterValidator(_filled)]
DataFile = Annotated[Path, BeforeValidator(_data_file)]
ModelName = Annotated[str, AfterValidator(_filled), AfterValidator(_model)]
Parameters = Annotated[dict[str, Any], BeforeValidator(lambda value: {} if value is None else value)]
Dtype = Annotated[str, _choice("float32", "float16", "bfloat16")]
Share = Annotated[float, Field(ge=0, le=1)]
GRID_NAMES = tuple(name for name, grid in GRIDS.items() if grid.bits == 4 or name == "Q8_0")


# The recipe.


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

    labels: Annotated[dict[str, str] | None, BeforeValidator(lambda value, info: value if value is None else _labels(value, info))] = None
    """Name -> the text embedded for it, in the order of the classes."""

    evaluation: Annotated[DataFile | None, Field(validate_default=True)] = None
    """Absolute path."""

    @field_validator("calibration", mode="before")
    @classmethod
    def _one_or_more(cls, value: object) -> object:
        if not isinstance(value, str | list):
            raise ValueError(f"found {_shown(value)}, expected the path of a file or a list of paths")
        return [value] if isinstance(value, str) else value

    @field_validator("evaluation")
    @classmethod
    def _needed_by_labels(cls, value: Path | None, info: ValidationInfo) -> Path | None:
        if value is None and info.data.get("labels"):
            raise ValueError("found nothing, expected a file of labelled lines, since the task has labels")
        return value


class RecipeCalibration(_Part):
    method: Annotated[str, _choice(*PRESETS)] = DEFAULT_METHOD
    samples: int = Field(default=64, ge=1)
    """Texts a task."""

    alpha: Share | None = None
    rho: float | None = Field(default=None, ge=0)
    damping: float | None = Field(default=None, ge=0, alias="lambda")
    seed: int = Field(default=0, ge=0, lt=2**63)

    @field_validator("alpha", "rho", "damping")
    @classmethod
    def _used(cls, value: float | None, info: ValidationInfo) -> float | None:
        method = PRESETS.get(info.data.get("method", ""))
        if value is None or method is None or method.target == "experts" or (info.field_name == "damping" and method.rounding == "gptq"):
            return value
        raise ValueError(f"found {value:g}, which method {method.name!r} does not use, expected the key left out")

    @property
    def settings(self) -> Method:
        """The preset with the recipe's own numbers."""
        return PRESETS[self.method].override(alpha=self.alpha, rho=self.rho, damping=self.damping)


class RecipeQuantization(_Part):
    grid: Annotated[str, _choice(*GRID_NAMES)] = "Q4_0"
    embeddings: Annotated[str, _choice("F16", "F32", "Q8_0", "Q4_0")] = "F16"
    keep: list[Name] = []
    """fnmatch patterns of the tensor names that stay in F16."""


class RecipeExport(_Part):
    formats: Annotated[list[Annotated[str, _choice("gguf", "onnx")]], AfterValidator(_distinct)] = Field(default=["gguf", "onnx"], min_length=1)


class RecipeVerify(_Part):
    graph: float = Field(default=1e-3, gt=0)
    """Largest rms relative difference."""

    tasks: Share = 0.02
    """Largest drop in accuracy, 0..1, of a written file below the reference."""

    agreement: Share = 0.98
    """Smallest mean cosine to the reference, for tasks without labels."""


class Recipe(_Part):
    base_model: ModelName = ""
    """For `linear`, which needs no base, the first model where the recipe names none: its config and tokenizer are used."""

    merge_method: Name = "task_arithmetic"
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
    _place: _Place = PrivateAttr()

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
        """`models` without the base, which mergekit's files list too; all of them for `linear`, where the base counts as one."""
        if self.merge_method == "linear":
            return list(self.models)
        base = self.location(self.base_model)
        return [model for model in self.models if self.location(model.model) != base]

    def location(self, name: str) -> str:
        """The absolute path of a model directory, or its hub id; `model+adapter` part by part."""
        directory = self.directory
        parts = _parts(name, directory)
        return "+".join(str(_absolute(part, directory)) if _is_local(part, directory) else part for part in parts)

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
    place = _Place(path.absolute().parent)
    try:
        recipe = Recipe.model_validate(document.data, context=place)
    except ValidationError as error:
        # A missing key has no line of its own, and may be the one that is misspelled elsewhere: it is told last.
        details = sorted(error.errors(), key=lambda details: (details["type"] == "missing", document.line(details["loc"])))
        raise _refusal(path, document, [_told(each) for each in details]) from None
    recipe._path, recipe._document, recipe._place = path, document, place
    if not recipe.models:
        recipe = recipe.model_copy(update={"models": _models_of(recipe)})
    if "base_model" not in document.data and recipe.merge_method == "linear" and recipe.models and not recipe.tasks:
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
            return key, f"found an unknown key, expected {_one_of(valid)}{did_you_mean(str(key[-1]), valid)}"
    expected = _EXPECTED.get(details["type"])
    return key, f"found {_shown(details['input'])}, expected {expected.format(**context)}" if expected else details["msg"]


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


def _one_of(choices: Iterable[str]) -> str:
    return f"one of {', '.join(choices)}"


def _shown(value: object) -> str:
    match value:
        case None:
            return "nothing"
        case bool():
            return str(value).lower()
        case dict():
            return "a mapping"
        case list():
            return "a list" if value else "an empty list"
        case _:
            text = repr(value)
            return text if len(text) <= 60 else text[:57] + "..."


# Places.


def _absolute(name: str, directory: Path) -> Path:
    try:
        return Path(directory, Path(name).expanduser())
    except RuntimeError:  # ~user of nobody
        return Path(directory, name)


def _is_local(name: str, directory: Path) -> bool:
    return name.startswith((".", "/", "~")) or Path(name).is_absolute() or _is(_absolute(name, directory).exists)


def _is(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except (OSError, ValueError):  # a name too long or with a NUL, a directory that may not be entered
        return False


def _parts(name: str, directory: Path) -> list[str]:
    """A model, or a model and its adapter: split at the first + unless a directory has the whole name."""
    return [name] if _is(_absolute(name, directory).exists) else name.split("+", 1)
