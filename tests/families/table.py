"""The table of families in docs/recipe.md, made of the families' own records and of what small models of them
are written as: `python -m tests.families.table` writes it.
"""

import tempfile
from collections.abc import Iterator, Mapping
from importlib import import_module
from pathlib import Path

from converters import EMBEDDERS, FAMILIES, open_family
from converters.shared.about import About
from epmq_export.models.family import Family, default_formats
from tests import ROOT
from tests.families.models import EMBEDS, MODELS

PAGE = ROOT / "docs" / "recipe.md"
HEAD = "| models | `model_type` | calibrated | as the merge has it | output that tasks read | written as |"
FORMATS = {"gguf": "GGUF", "onnx": "ONNX"}


def records() -> Iterator[About]:
    """Give the records of all families, in the order of the registry."""
    for folder in dict.fromkeys((*FAMILIES.values(), *EMBEDDERS.values())):
        yield from import_module(f"converters.{folder}").ABOUT


def written_as(family: Family) -> str:
    return ", ".join(FORMATS[name] for name in default_formats(family))


def row(about: About, formats: str) -> str:
    kinds = ", ".join(f"`{kind}`" for kind in about.kinds)
    kinds += " with `modules.json`" if about.modules else ""
    return f"| {' | '.join((about.models, kinds, about.calibrated, about.kept, about.output, formats))} |"


def table() -> list[str]:
    """Return the lines of the table on the page."""
    lines = PAGE.read_text(encoding="utf-8").splitlines()
    begin = lines.index(HEAD)
    return lines[begin : lines.index("", begin)]


def _write(formats: Mapping[str, str]) -> None:
    old, new = table(), [HEAD, "|---|---|---|---|---|---|"]
    new += [row(about, formats[f"{about.kinds[0]}{EMBEDS if about.modules else ''}"]) for about in records()]
    text = PAGE.read_text(encoding="utf-8")
    PAGE.write_text(text.replace("\n".join(old), "\n".join(new)), encoding="utf-8")


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        _write({name: written_as(open_family(MODELS[name].write(Path(place) / name))) for name in MODELS})
