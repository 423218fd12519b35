"""YAML as plain data, with the line of every key.

Scalars follow YAML 1.2's core schema and not PyYAML's 1.1: `1e-3` is a number, and `yes`, `no`, `on` and
dates are text, as the writer of a label list expects. Keys are text as written. Nothing but mappings, lists
and scalars is ever constructed.
"""

import math
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

import yaml

from epmq_export.errors import Key, RecipeError, dotted, near_file
from epmq_export.files import encodable

Scalar = str | int | float | bool | None
Value = Scalar | list[Any] | dict[str, Any]

# A short file with aliases can describe an endless one. No recipe has this many values.
_MOST_NODES = 100_000
_TAG = "tag:yaml.org,2002:"


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers = {}  # noqa: RUF012 (PyYAML's own interface)


_Loader.add_implicit_resolver(_TAG + "null", re.compile(r"(?:~|null|Null|NULL|)\Z"), ["~", "n", "N", ""])
_Loader.add_implicit_resolver(
    _TAG + "bool", re.compile(r"(?:true|True|TRUE|false|False|FALSE)\Z"), list("tTfF")
)
_Loader.add_implicit_resolver(_TAG + "int", re.compile(r"[-+]?[0-9]+\Z"), list("-+0123456789"))
_Loader.add_implicit_resolver(
    _TAG + "float",
    re.compile(r"[-+]?(?:\.[0-9]+|[0-9]+(?:\.[0-9]*)?)(?:[eE][-+]?[0-9]+)?\Z"),
    list("-+.0123456789"),
)


@dataclass(frozen=True)
class Document:
    """A YAML file as plain data, with the line of everything in it."""

    data: dict[str, Any]
    """Only values that JSON can hold: dict, list, str, int, finite float, bool and None."""

    lines: dict[Key, int]
    """The line, counted from 1, of every key and list item, by the way to it."""

    def line(self, key: Key) -> int:
        """Return the line of a key, or of the nearest one above it."""
        while key and key not in self.lines:
            key = key[:-1]
        return self.lines.get(key, 1)


def read(path: Path) -> Document:
    """Return the one document of a YAML file, a mapping.

    Raises RecipeError, with file and line, for any other content.
    """
    text = _text(path)
    try:
        node = yaml.compose(text, Loader=_Loader)
        if node is None:
            raise RecipeError(f"{path}:1: the file is empty, expected a recipe")
        document = Document({}, {})
        reader = _Reader(path, document.lines)
        if not isinstance(node, yaml.MappingNode):
            found = "a list" if isinstance(node, yaml.SequenceNode) else f"{str(node.value)[:60]!r}"
            reader.refuse(node, f"found {found} at the top level, expected a mapping of recipe keys")
        document.data.update(reader.mapping(node, ()))
        return document
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        line = mark.line + 1 if mark else 1
        raise RecipeError(f"{path}:{line}: not valid YAML: {_problem(error, text, line)}") from None
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise RecipeError(
            f"{path}:{line}: not valid YAML: character {error.character!r} is not allowed"
        ) from None
    except RecursionError:
        raise RecipeError(f"{path}:1: lists and mappings are nested too deeply for a recipe") from None


def _text(path: Path) -> str:
    if path.exists() and not path.is_file() and not path.is_dir():
        raise RecipeError(
            f"{path}: found a pipe, expected a file, since what a recipe names is relative to it"
        )
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        raise RecipeError(
            f"{path}: found no such file, expected a recipe{near_file(path, str(path))}"
        ) from None
    except (OSError, ValueError) as error:
        raise RecipeError(
            f"{path}: not readable ({error.strerror if isinstance(error, OSError) else error})"
        ) from None
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = raw.count(b"\n", 0, error.start) + 1
        raise RecipeError(
            f"{path}:{line}: found byte 0x{raw[error.start]:02x}, expected text in UTF-8"
        ) from None


def _problem(error: yaml.MarkedYAMLError, text: str, line: int) -> str:
    lines = text.split("\n")
    at = lines[line - 1] if line <= len(lines) else ""
    if "\t" in at[: len(at) - len(at.lstrip())] or "'\\t'" in str(error.problem):
        return "found a tab, expected spaces for indentation"
    return " ".join(part for part in (error.context, error.problem) if part)


class _Reader:
    def __init__(self, path: Path, lines: dict[Key, int]) -> None:
        self.path = path
        self.lines = lines
        self.nodes = 0

    def refuse(self, node: yaml.Node, message: str) -> NoReturn:
        raise RecipeError(f"{self.path}:{node.start_mark.line + 1}: {message}")

    def value(self, node: yaml.Node, key: Key) -> Value:
        self.nodes += 1
        if self.nodes > _MOST_NODES:
            self.refuse(node, f"aliases or lists make more than {_MOST_NODES} values, which no recipe needs")
        self.lines.setdefault(key, node.start_mark.line + 1)
        kind = node.tag.removeprefix(_TAG)
        if isinstance(node, yaml.MappingNode) and kind == "map":
            return self.mapping(node, key)
        if isinstance(node, yaml.SequenceNode) and kind == "seq":
            return [self.value(item, (*key, index)) for index, item in enumerate(node.value)]
        if isinstance(node, yaml.ScalarNode) and kind in {"null", "bool", "int", "float", "str"}:
            return self._scalar(node, kind)
        self.refuse(node, f"found the tag {node.tag!r}, expected plain YAML without tags")

    def mapping(self, node: yaml.MappingNode, key: Key) -> dict[str, Any]:
        result: dict[str, Any] = {}
        first: dict[str, int] = {}
        for name_node, value_node in node.value:
            if not isinstance(name_node, yaml.ScalarNode):
                self.refuse(name_node, "found a list or mapping as a key, expected a name")
            name, line = self._text(name_node), name_node.start_mark.line + 1
            inner = (*key, name)
            if name in first:
                self.refuse(
                    name_node,
                    (
                        f"{dotted(inner)}: found the key a second time, first on line {first[name]}, "
                        "expected it once"
                    ),
                )
            if name == "<<":
                self.refuse(name_node, "found a merge key '<<', expected the keys written out")
            first[name] = self.lines[inner] = line
            result[name] = self.value(value_node, inner)
        return result

    def _text(self, node: yaml.ScalarNode) -> str:
        text = str(node.value)
        if not encodable(text):
            self.refuse(node, f"found half of a surrogate pair in {text[:60]!r}, expected text")
        return text

    def _scalar(self, node: yaml.ScalarNode, kind: str) -> Scalar:
        text = self._text(node)
        try:
            match kind:
                case "null":
                    return None
                case "bool":
                    return {"true": True, "false": False}[text.lower()]
                case "int":
                    return int(text)
                case "float" if math.isfinite(float(text)):
                    return float(text)
                case "str":
                    return text
        except (ValueError, KeyError):
            pass
        self.refuse(
            node,
            f"found {text[:60]!r}, expected a finite number"
            if kind != "bool"
            else f"found {text[:60]!r}, expected true or false",
        )
