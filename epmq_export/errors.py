"""The one tree of errors. Each error is a sentence for the user and carries the exit code of the command
line.

EpmqError
├── VerificationFailed   1  the artefact fails verification
├── RecipeError          2  wrong use: a recipe, an option, an output that exists
│   └── SettingError     2  a wrong setting, known by its key; the recipe adds file and line
├── InputError           3  a bad input file: a checkpoint, calibration data, a written model
│   └── CalibrationError 3  the numbers of a layer cannot be solved
├── OutputError          3  a place that cannot be written: a full disk, a file where a directory is needed
├── MissingRuntime       4  a runtime that is needed is not installed
└── LostRank             5  another process of the same job, which torchrun has started, has ended
"""

from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path

Key = tuple[str | int, ...]
"""The way to a value of a recipe: names of mappings, and numbers of a list's items."""


def dotted(key: Key) -> str:
    """Return a key as people write it, `tasks.sst2.calibration[1]`, on one line whatever the names."""
    names = (part if isinstance(part, int) or part.isprintable() else repr(part) for part in key)
    return "".join(f"[{name}]" if isinstance(name, int) else f".{name}" for name in names).removeprefix(".")


class EpmqError(Exception):
    """The base class of all errors that are meant for the user. The message is a whole sentence."""

    exit_code = 1


class VerificationFailed(EpmqError):
    """Written files that failed their verification."""

    exit_code = 1


class RecipeError(EpmqError):
    """A wrong recipe or a wrong use of a command."""

    exit_code = 2


class SettingError(RecipeError):
    """A wrong setting whose key is known and whose file is not. `Recipe.located` adds file and line."""

    def __init__(self, key: Key, message: str) -> None:
        super().__init__(f"{dotted(key)}: {message}")
        self.key = key
        self.message = message


class InputError(EpmqError):
    """An input file that is missing or not well-formed."""

    exit_code = 3


class CalibrationError(InputError):
    """Numbers of a layer that cannot be solved or stored."""

    exit_code = 3


class OutputError(EpmqError):
    """A place where an output cannot be written."""

    exit_code = 3


class MissingRuntime(EpmqError):
    """A runtime or package that is needed and not installed."""

    exit_code = 4


class LostRank(EpmqError):
    """Another process of the same job that has ended before its work was done."""

    exit_code = 5


def first_line(error: BaseException) -> str:
    """Return the first line of what a library's error says, or its class's name where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def did_you_mean(name: str, valid: Iterable[str]) -> str:
    """Return `, did you mean 'x'?` where a valid name is near, letter case aside, else an empty string."""
    near = _nearest(name, valid)
    return f", did you mean {near!r}?" if near is not None else ""


def near_file(path: Path, written: str) -> str:
    """Return the same as `did_you_mean` for a missing file, among the files of the directory where it was
    looked for.

    `written` is how the user spelled `path`.
    """
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except (OSError, ValueError):
        return ""
    near = _nearest(path.name, names)
    return f", did you mean {written.removesuffix(path.name) + near!r}?" if near is not None else ""


def _nearest(name: str, valid: Iterable[str]) -> str | None:
    by_case = {candidate.lower(): candidate for candidate in valid}
    close = get_close_matches(name.lower(), by_case, n=1, cutoff=0.6)
    return by_case[close[0]] if close else None
