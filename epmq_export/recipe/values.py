"""The values that a recipe may have. The message of a validator's ValueError is the part of the sentence
after the key.
"""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, TypeVar

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
)
from pydantic_core import core_schema

from epmq_export.data.labels import worded
from epmq_export.errors import did_you_mean, near_file
from epmq_export.files import encodable
from epmq_export.grids import GRIDS

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[\w.-]+)?(@[\w./-]+)?", re.ASCII)
_T = TypeVar("_T")


class RecipePart(BaseModel):
    """A mapping in a recipe: it has no unknown keys, and none of its values is converted."""

    model_config = ConfigDict(
        extra="forbid", strict=True, frozen=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


@dataclass(frozen=True)
class Context:
    """The surroundings of a validation: the directory that relative paths start from, and the data files
    found so far.
    """

    directory: Path
    files: list[Path] = field(default_factory=list)

    @classmethod
    def of(cls, info: ValidationInfo) -> "Context":
        """Return the context that the validation of this value was given."""
        assert isinstance(info.context, cls)
        return info.context


class Choice:
    """The words that a text is one of, for pydantic and for the schema that editors use."""

    def __init__(self, choices: Sequence[str]) -> None:
        self.choices = choices

    def check(self, value: str) -> str:
        """Return the text. Raises ValueError for a word that is not one of them."""
        if value not in self.choices:
            near = did_you_mean(value, self.choices)
            raise ValueError(f"found {value!r}, expected {one_of(self.choices)}{near}")
        return value

    def __get_pydantic_core_schema__(
        self,
        source: object,
        handler: GetCoreSchemaHandler,
    ) -> core_schema.CoreSchema:
        return core_schema.no_info_after_validator_function(self.check, handler(source))

    def __get_pydantic_json_schema__(
        self, schema: core_schema.CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {**handler(schema), "enum": [*self.choices]}


def choice(*choices: str) -> Choice:
    """Return a check that a text is one of some words."""
    return Choice(choices)


def distinct(values: list[_T]) -> list[_T]:
    """Return the values. Raises ValueError where one of them is there twice."""
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
    """Return the absolute path of a data file that exists."""
    path = _data_path(value, info)
    if isinstance(path, Path) and path.is_dir():
        raise ValueError(f"found the directory {value!r}, expected a file")
    return path


def _data_path(value: object, info: ValidationInfo) -> object:
    """Return the absolute path of a data file, or of a directory of them, that exists."""
    if not isinstance(value, str):
        raise ValueError(f"found {shown(value)}, expected a path")
    context = Context.of(info)
    path = _absolute(value, context.directory)
    if not _is(path.is_file) and not _is(path.is_dir):
        raise ValueError(
            f"found no file {value!r}, expected one, relative to the recipe{near_file(path, value)}"
        )
    if path not in context.files:
        context.files.append(path)
    return path


def model_name(value: str, info: ValidationInfo) -> str:
    """Return the name of a model: a directory or GGUF file that exists, a hub id, or one of these + an
    adapter.
    """
    directory = Context.of(info).directory
    for part in _parts(value, directory):
        if _is_local(part, directory):
            path = _absolute(part, directory)
            if _is(path.is_file) and path.suffix.lower() != ".gguf":
                raise ValueError(
                    f"found the file {part!r}, expected the directory of a model, or a GGUF file"
                )
            if not _is(path.is_dir) and not _is(path.is_file):
                raise ValueError(
                    f"found no model directory {part!r}, expected one, relative to the "
                    f"recipe{near_file(path, part)}"
                )
        elif not HUB_ID.fullmatch(part):
            raise ValueError(
                f"found {part!r}, expected a model directory or a hub "
                f"id{near_file(_absolute(part, directory), part)}"
            )
    return value


def _setting(value: object) -> object:
    """Return a parameter of a merge, in one of mergekit's ways to write it.

    The rule itself checks whether the value suits it.
    """
    expected = (
        "expected a number, true or false, a list of numbers over the layers, or a list of filter and value"
    )
    if isinstance(value, dict) or (
        isinstance(value, list) and any(isinstance(entry, dict) for entry in value)
    ):
        for entry in value if isinstance(value, list) else [value]:
            if not isinstance(entry, dict) or "value" not in entry or set(entry) - {"filter", "value"}:
                found = (
                    f"an entry with {', '.join(map(_word, entry)) or 'nothing'}"
                    if isinstance(entry, dict)
                    else shown(entry)
                )
                raise ValueError(f"found {found}, {expected}")
            if not isinstance(entry.get("filter", ""), str | None):
                raise ValueError(
                    f"found the filter {shown(entry['filter'])}, expected a part of a tensor's name"
                )
            _setting_value(entry["value"], expected)
    else:
        _setting_value(value, expected)
    return value


def _word(key: object) -> str:
    """Return a key as it is or, where it is no text of one line, as Python writes it."""
    text = str(key)
    return text if text.isprintable() else repr(key)


def _setting_value(value: object, expected: str) -> None:
    for number in value if isinstance(value, list) and value else [value]:
        if not isinstance(number, bool | int | float | str):
            raise ValueError(f"found {shown(number)}, {expected}")


def _labels(value: object, info: ValidationInfo) -> object:
    """Return label names, each with the text that is embedded for it, from a list of names, a mapping, or a
    JSON file with either.
    """
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
                raise ValueError(f"found the label {shown(name)}{where}, expected text: quote it")
        value = dict.fromkeys(distinct(value))
    if not isinstance(value, dict):
        raise ValueError(
            f"found {shown(value)}{where}, expected a list of names, a mapping of names to texts, or the "
            "path of a JSON file"
        )
    if len(value) < 2:
        raise ValueError(f"found {'1 label' if value else 'no labels'}{where}, expected at least 2")
    names: dict[str, str] = {}
    for name, written in value.items():
        text = worded(name) if written is None else written
        if not isinstance(text, str) or not text.strip() or not name.strip() or not encodable(name + text):
            raise ValueError(f"found {shown(text)} for label {name!r}{where}, expected text")
        if text in names:
            raise ValueError(
                f"found the text {text!r} for the labels {names[text]!r} and {name!r}{where}, expected "
                "one for each"
            )
        names[text] = name
    return {name: text for text, name in names.items()}


def _template(value: str) -> str:
    if value.count("{}") != 1 or "{" in value.replace("{}", "") or "}" in value.replace("{}", ""):
        raise ValueError(
            f"found the template {value!r}, expected text with {{}} once, where the class stands"
        )
    return value


def _columns(value: object) -> object:
    """Return a list of names, from one name or several."""
    if value is not None and not (value and isinstance(value, str | list)):
        raise ValueError(f"found {shown(value)}, expected the name of a column or a list of names")
    return [value] if isinstance(value, str) else value


def size_in_bytes(value: object) -> int:
    """Return the bytes of a text such as 2G or 500MB, counted in thousands as llama.cpp does.

    Raises ValueError for any other text.
    """
    found = re.fullmatch(r"([1-9][0-9]{0,8})([KMG])B?", value) if isinstance(value, str) else None
    if found is None:
        raise ValueError(f"found {shown(value)}, expected a size such as 2G, 500M or 800K")
    return int(found[1]) * {"K": 10**3, "M": 10**6, "G": 10**9}[found[2]]


def _size(value: object) -> object:
    if value is not None:
        size_in_bytes(value)
    return value


Name = Annotated[str, AfterValidator(_filled)]
Columns = Annotated[
    Annotated[list[Name], AfterValidator(distinct)] | None,
    BeforeValidator(_columns, json_schema_input_type=str | list[str] | None),
]
Size = Annotated[str | None, BeforeValidator(_size)]
Template = Annotated[str, AfterValidator(_template)]
DataPath = Annotated[Path, BeforeValidator(_data_path, json_schema_input_type=str)]
DataFile = Annotated[Path, BeforeValidator(_data_file, json_schema_input_type=str)]
ModelName = Annotated[str, AfterValidator(_filled), AfterValidator(model_name)]
Parameters = Annotated[
    dict[str, Annotated[Any, AfterValidator(_setting)]],
    BeforeValidator(
        lambda value: {} if value is None else value, json_schema_input_type=dict[str, Any] | None
    ),
]
Labels = Annotated[
    dict[str, str] | None,
    BeforeValidator(
        lambda value, info: value if value is None else _labels(value, info),
        json_schema_input_type=str | list[str] | dict[str, str | None] | None,
    ),
]
Dtype = Annotated[str, choice("float32", "float16", "bfloat16")]
Share = Annotated[float, Field(ge=0, le=1)]
STORAGES = ("F16", "F32", *GRIDS)
# The grids that ONNX's DequantizeLinear can hold bit for bit. `formats` has the nodes.
ONNX_GRIDS = ("Q2_0", "Q4_0", "Q4_1Z", "Q8_0")


def one_of(choices: Iterable[str]) -> str:
    """Return some words as a sentence offers them."""
    return f"one of {', '.join(choices)}"


def shown(value: object) -> str:
    """Return a value as a sentence shows it, in at most 60 characters."""
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


def location(name: str, directory: Path) -> str:
    """Return the absolute path of a model directory, or its hub id; of `model+adapter`, both parts."""
    return "+".join(
        str(_absolute(part, directory)) if _is_local(part, directory) else part
        for part in _parts(name, directory)
    )


def _absolute(name: str, directory: Path) -> Path:
    try:
        return Path(directory, Path(name).expanduser())
    except RuntimeError:  # There is no such ~user.
        return Path(directory, name)


def _is_local(name: str, directory: Path) -> bool:
    return (
        name.startswith((".", "/", "~")) or Path(name).is_absolute() or _is(_absolute(name, directory).exists)
    )


def _is(check: Callable[[], bool]) -> bool:
    try:
        return check()
    except (OSError, ValueError):  # The name is too long or has a NUL, or a directory may not be entered.
        return False


def _parts(name: str, directory: Path) -> list[str]:
    """Return the model, or the model and its adapter. The name is split at the first + unless a directory has
    the whole name.
    """
    return [name] if _is(_absolute(name, directory).exists) else name.split("+", 1)
