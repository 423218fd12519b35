"""The mistakes of a recipe, each as one sentence: the line, the key, what was found, and what was
expected.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import get_args, get_origin

from pydantic import BaseModel
from pydantic_core import ErrorDetails

from epmq_export.errors import Key, RecipeError, did_you_mean, dotted
from epmq_export.recipe.values import one_of, shown
from epmq_export.recipe.yaml_lines import Document

# The tags of a union. pydantic puts them into the place of a mistake, but they are no keys of a recipe.
PATH, DATA = "<path>", "<data>"


def refusal(path: Path, document: Document, mistakes: list[tuple[Key, str]]) -> RecipeError:
    """Return the error that tells of the first of some mistakes, with file and line, and how many more there
    are.
    """
    key, message = mistakes[0]
    key = as_written(key, document)
    more = len(mistakes) - 1
    rest = f" (and {more} more {'mistake' if more == 1 else 'mistakes'})" if more else ""
    return RecipeError(f"{path}:{document.line(key)}: {dotted(key)}: {message}{rest}")


def as_written(key: Key, document: Document) -> Key:
    """Return a key without the index of a value that is written alone where a list of values may stand."""
    found: Key = ()
    for part in key:
        if not isinstance(part, int) or (*found, part) in document.lines:
            found = (*found, part)
    return found


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


def told(details: ErrorDetails, root: type[BaseModel]) -> tuple[Key, str]:
    """Return the key and the sentence of one of pydantic's errors."""
    key: Key = tuple(part for part in details["loc"] if part not in (PATH, DATA))
    context = details.get("ctx", {})
    match details["type"]:
        case "value_error":
            return key, str(context["error"])
        case "missing":
            return key, "found nothing, expected this key"
        case "extra_forbidden":
            valid = keys(_part(root, key))
            return key, f"found an unknown key, expected {one_of(valid)}{did_you_mean(str(key[-1]), valid)}"
    expected = _EXPECTED.get(details["type"])
    return (
        key,
        f"found {shown(details['input'])}, expected {expected.format(**context)}"
        if expected
        else details["msg"],
    )


def keys(part: type[BaseModel]) -> list[str]:
    """Return the keys of a mapping in a recipe, as written there."""
    return [info.alias or name for name, info in part.model_fields.items()]


def _part(root: type[BaseModel], key: Key) -> type[BaseModel]:
    """Return the mapping in which the last part of `key` stands."""
    part, is_name = root, False
    for name in key[:-1]:
        if is_name or isinstance(name, int):
            is_name = False
            continue
        annotation = next(
            info.annotation for field, info in part.model_fields.items() if name == (info.alias or field)
        )
        is_name = get_origin(annotation) is dict
        part = next(mappings(annotation))
    return part


def mappings(annotation: object) -> Iterator[type[BaseModel]]:
    """Yield the kinds of mapping that a key's value may hold."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        yield annotation
    for inner in get_args(annotation):
        yield from mappings(inner)
