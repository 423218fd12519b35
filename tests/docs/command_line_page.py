"""docs/command-line.md, made of the commands' help: `python -m tests.docs.command_line_page` writes it."""

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, get_args, get_type_hints

from typer.models import ArgumentInfo

from cli import app
from tests import ROOT

PAGE = ROOT / "docs" / "command-line.md"
INTRODUCTION = """\
# The command line

Results are on stdout, progress and log on stderr. `epmq COMMAND --help` shows what is here, and
`epmq --install-completion` lets the shell complete it. `epmq --verbose COMMAND` says more. This page is made
of the commands' own help by `python -m tests.docs.command_line_page`.
"""
_VALUES = {Path: "PATH", int: "N", str: "TEXT"}


class _Parameter(NamedTuple):
    """An argument or an option of a command."""

    argument: bool
    spelled: str
    default: str
    help: str


def page() -> str:
    """Return the content of docs/command-line.md."""
    lines = [INTRODUCTION, _flowing(str(app.info.epilog)), ""]
    for command in app.registered_commands:
        assert command.callback is not None
        lines += _command(command.name or command.callback.__name__, command.callback)
    return "\n".join(lines).rstrip() + "\n"


def _command(name: str, function: Callable[..., Any]) -> Iterator[str]:
    """Yield the section of a command: how it is called, what it does, and its arguments and options."""
    shown = [*_parameters(function)]
    arguments = [each for each in shown if each.argument]
    options = [each for each in shown if not each.argument]
    called = [each.spelled for each in arguments] + (["[OPTIONS]"] if options else [])
    yield from (f"## epmq {name}", "", f"    epmq {name} {' '.join(called)}", "")
    yield from (_flowing(inspect.getdoc(function) or ""), "")
    for head, rows in (("argument", arguments), ("option", options)):
        if rows:
            yield from (f"| {head} | default | |", "|---|---|---|")
            yield from (f"| `{each.spelled}` | {each.default} | {each.help} |" for each in rows)
            yield ""


def _parameters(function: Callable[..., Any]) -> Iterator[_Parameter]:
    hints = get_type_hints(function, include_extras=True)
    for name, parameter in inspect.signature(function).parameters.items():
        kind, told = get_args(hints[name])
        required = parameter.default is inspect.Parameter.empty
        default = "required" if required else _default(parameter.default)
        if isinstance(told, ArgumentInfo):
            placed = str(told.metavar or name.upper())
            spelled = placed if required else f"[{placed}]"
        else:
            value = "" if kind is bool else f" {told.metavar or _value(kind)}"
            # Beside `Annotated` the first spelling takes the place of a default.
            first = [told.default] if isinstance(told.default, str) else []
            spelled = f"{', '.join([*first, *(told.param_decls or ())])}{value}"
        yield _Parameter(isinstance(told, ArgumentInfo), spelled, default, _flowing(told.help or ""))


def _value(kind: Any) -> str:
    """Return what stands behind an option of a type."""
    inner: Sequence[Any] = get_args(kind) if isinstance(kind, UnionType) or get_args(kind) else [kind]
    found = next(each for each in inner if each is not type(None))
    if get_args(found):
        return _value(found)
    if issubclass(found, Enum):
        return "/".join(str(each.value) for each in found)
    return _VALUES[found]


def _default(value: object) -> str:
    return "" if value in (None, False) else f"`{value}`"


def _flowing(text: str) -> str:
    """Return a help text on one line, with bars that are none of a table's."""
    return re.sub(r"\s+", " ", text).strip().replace("|", "\\|")


def write(place: Path = PAGE) -> None:
    place.write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    write()
