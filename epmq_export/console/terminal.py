"""The two places where a person reads: results are on stdout, progress and log on stderr."""

import logging

from rich.console import Console
from rich.logging import RichHandler
from rich.table import Table
from rich.text import Text

out, err = Console(highlight=False), Console(stderr=True, highlight=False)


def show_log(verbose: bool) -> None:
    """Show the log of this project on stderr, and of other libraries only their errors."""
    handler = (
        RichHandler(console=err, show_time=False, show_path=False, markup=False)
        if err.is_terminal
        else logging.StreamHandler()
    )
    if not err.is_terminal:
        handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logging.basicConfig(level=logging.ERROR, handlers=[handler], force=True)
    for name in ("epmq_export", "converters", "formats"):
        logging.getLogger(name).setLevel(logging.INFO if verbose else logging.WARNING)


def mark(passed: bool, text: str) -> Text:
    """Return the text with a green tick or a red cross."""
    return Text(f"✓ {text}".strip(), "green") if passed else Text(f"✗ {text}".strip(), "bold red")


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
        table.add_column(column, justify="right" if number else "left", overflow="fold", no_wrap=number)
    return table
