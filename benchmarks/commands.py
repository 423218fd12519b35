"""What the commands' parsers have in common."""

import argparse


def parser(name: str, about: str | None) -> argparse.ArgumentParser:
    """Return a parser of `python -m benchmarks.NAME`; `about` is the module's docstring, shown as it is."""
    return argparse.ArgumentParser(
        prog=f"python -m benchmarks.{name}",
        description=about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
