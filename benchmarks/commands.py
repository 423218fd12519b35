"""What the commands' parsers have in common."""

import argparse
from collections.abc import Sequence


def parser(name: str, about: str | None) -> argparse.ArgumentParser:
    """Return a parser of `python -m benchmarks.NAME`; `about` is the module's docstring, shown as it is."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )


def as_asked(
    known: argparse.ArgumentParser, given: argparse.Namespace, places: Sequence[str] = ("out", "work")
) -> str:
    """Return the command that gives these options, for the head of a table: those that are not the defaults,
    without the `places` of one machine.
    """
    told = [known.prog]
    for key, value in vars(given).items():
        if key not in places and value != known.get_default(key):
            told.append(f"--{key.replace('_', '-')}")
            told += [] if value is True else map(str, value if isinstance(value, list) else [value])
    return " ".join(told)
