"""Writes the recipes of this folder: one truth for the tasks that several files share.

    python recipes/make.py

The files are committed; a test holds them against what this writes.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path

import clip
import glue
import roberta

# Editors look for the schema that this names, relative to the file.
SCHEMA = "# yaml-language-server: $schema=../docs/recipe.schema.json\n"


def _written(text: Callable[[str], str], name: str) -> str:
    return SCHEMA + text(name)


FILES: dict[str, Callable[[], str]] = {
    name: partial(_written, kind.text, name) for kind in (clip, glue, roberta) for name in kind.FILES
}


def main() -> None:
    for name, text in FILES.items():
        Path(__file__).with_name(name).write_text(text(), encoding="utf-8")


if __name__ == "__main__":
    main()
