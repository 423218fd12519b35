"""The two places where a person reads: results are on stdout, progress and log on stderr.

What users and files have named is shown as it is: no text is taken for markup, and none controls the
terminal.
"""

import json
import logging
import os
import sys
from collections.abc import Mapping

from rich.console import Console
from rich.table import Table
from rich.text import Text

from epmq_export.console.streams import is_terminal

WIDE = 10_000
"""The width of a line where no terminal bounds it: a program that reads a table needs each row whole."""

_SIGNS = {"✓": "ok", "✗": "FAIL", "×": "x", "…": "..."}
"""What stands for the signs of our own where the encoding lacks them."""


_JOINERS = "\u200c\u200d"
"""The joiners of letters and emoji, which are part of a text and are nevertheless not printable to Python."""


class _Console(Console):
    """A console that writes to what is now `sys.stdout` or `sys.stderr`, with lines that it can encode."""

    def __init__(self, stderr: bool = False, width: int | None = None) -> None:
        super().__init__(
            stderr=stderr,
            highlight=False,
            markup=False,
            emoji=False,
            color_system=None if os.environ.get("NO_COLOR") else "auto",
            width=width,
        )

    @property
    def encoding(self) -> str:
        return (getattr(self.file, "encoding", None) or "utf-8").lower()


out, err = _Console(), _Console(stderr=True)


def show_log(verbose: bool) -> None:
    """Show the log of this project on stderr, and of other libraries only their errors."""
    logging.basicConfig(level=logging.ERROR, handlers=[_Log()], force=True)
    # transformers has a level and a handler of its own, which it sets up when it is imported.
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    for name in ("epmq_export", "converters", "formats"):
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.WARNING)


class _Log(logging.Handler):
    """The log, a line for each record, above a bar where there is one."""

    def emit(self, record: logging.LogRecord) -> None:
        styles = {logging.WARNING: "yellow", logging.ERROR: "red", logging.CRITICAL: "red"}
        show_line(f"{record.levelname}: {record.getMessage()}", styles.get(record.levelno, ""))


def show_line(text: str, style: str = "", console: Console = err) -> None:
    """Show a text in one line, however long it is: whoever copies a path wants it in one piece."""
    console.print(Text(visible(text), style), soft_wrap=True)


def show_table(table: Table) -> None:
    """Show a table of results: within a terminal's width or, where a program reads it, each row on one
    line. Its title may be wider than the table.
    """
    console = _Console(width=columns())
    title, table.title = table.title, None
    if title is not None:
        console.print(title, style=table.title_style or "table.title")
    console.print(table)


def columns() -> int:
    """Return how wide a table may be: as the terminal, or as COLUMNS says, or as it likes."""
    piped = not is_terminal(sys.stdout) and not os.environ.get("COLUMNS")
    return WIDE if piped else out.width


def print_result(result: object) -> None:
    """Print a result, such as a path, for a person or a script. A script gets it letter by letter."""
    text = str(result)
    sys.stdout.write((visible(text) if is_terminal(sys.stdout) else text) + "\n")
    sys.stdout.flush()


def print_json(content: Mapping[str, object]) -> None:
    """Print JSON in ASCII, without colours, so that every program in every locale can read it."""
    sys.stdout.write(json.dumps(content, indent=1) + "\n")
    sys.stdout.flush()


def visible(text: str) -> str:
    """Return the text with every character that is not printable as an escape, because the text of a file
    must not control a terminal.
    """
    return "".join(
        letter
        if letter.isprintable() or letter in _JOINERS
        else letter.encode("unicode_escape").decode("ascii")
        for letter in text
    )


def encodes_signs() -> bool:
    """Return whether stdout takes ticks and lines, which terminals that are not UTF-8 lack."""
    return out.encoding.startswith("utf")


def sign(name: str) -> str:
    """Return a sign of our own, or what stands for it where stdout cannot encode it."""
    try:
        name.encode(out.encoding)
    except (UnicodeEncodeError, LookupError):
        return _SIGNS[name]
    return name


def mark(passed: bool, text: str) -> Text:
    """Return the text with a green tick or a red cross."""
    name, style = ("✓", "green") if passed else ("✗", "bold red")
    return Text(f"{sign(name)} {visible(text)}".strip(), style)


def plain_table(title: str, *columns: str) -> Table:
    """Return a table without lines, so that names have room. Long texts fold, so that nothing is lost."""
    table = Table(
        title=f"\n{title}",
        title_justify="left",
        title_style="bold",
        header_style="dim",
        box=None,
        padding=(0, 1, 0, 0),
        show_header=any(columns),
    )
    for column in columns:
        number = column in ("×", "tensors", "weights", "shape", "bytes", "bits")
        table.add_column(
            sign(column) if column in _SIGNS else column,
            justify="right" if number else "left",
            overflow="fold",
            no_wrap=number,
        )
    return table
