"""docs/command-line.md, made of the commands' help: `python -m tests.docs.command_line_page` writes it."""

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from pathlib import Path
from types import UnionType
from typing import Any, NamedTuple, get_args, get_origin, get_type_hints

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
SEVERAL = """\
## Several processes

`torchrun` starts a calibration in several processes, which share its work, on one machine or on several:

    torchrun --no-python --nproc-per-node 2 epmq run recipe.yaml -o out
    torchrun --no-python --nnodes 2 --nproc-per-node 8 --rdzv-backend c10d --rdzv-endpoint HOST:29500 \\
        epmq calibrate recipe.yaml -o packed

The first of the processes (rank 0) does the job: it alone writes, prints, refines, exports and verifies. The
others compute their parts of `epmq calibrate`, `epmq run` and `epmq demo`, and leave with it; all other
commands are rank 0's alone. Processes talk by gloo, and what lies on GPUs goes by NCCL, each rank having the
GPU of its number on its machine. (Neither NCCL nor several machines have been tried: tests run on the
processors of one.) Recipe and models must be found at the same places on every machine; data and output are
rank 0's alone. torchrun lets each process take one thread, unless `OMP_NUM_THREADS` or `--threads` says more.
Without torchrun nothing of this is loaded. [method.md](method.md#several-processes) says what is shared, and
[results.md](results.md#several-processes) what that gives.

A process that fails or dies ends all others: one of them says why in one sentence, beside torchrun's own
report, and torchrun's exit code is 1. `--resume` goes on with the blocks that are finished, with any number
of processes or without torchrun; another number may change a few codes, and is noted. `--max-restarts` of
torchrun goes with `--resume`. A machine that vanishes without closing its connections is waited for up to a
day.
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
    return "\n".join([*lines, SEVERAL]).rstrip() + "\n"


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
            placed = f"{told.metavar or name.upper()}{'...' if get_origin(kind) is list else ''}"
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
