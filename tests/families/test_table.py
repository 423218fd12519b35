"""The table of families in docs/recipe.md is what the families say."""

import json

from converters import EMBEDDERS, FAMILIES
from epmq_export.tensors.modules import MODULES
from tests.families.conftest import Opened
from tests.families.table import records, row, table, written_as

ASK = "run `python -m tests.families.table`"


def test_every_family_has_a_row() -> None:
    for modules, known in ((False, FAMILIES), (True, EMBEDDERS)):
        found = (kind for about in records() if about.modules is modules for kind in about.kinds)
        assert sorted(found) == sorted(known)
    assert len(table()) == 2 + len([*records()]), ASK


def test_the_row_is_what_the_family_says(opened: Opened) -> None:
    """Kinds of one row are written as the same."""
    kind = json.loads((opened.directory / "config.json").read_text(encoding="utf-8"))["model_type"]
    embeds = kind in EMBEDDERS and (opened.directory / MODULES).is_file()
    (about,) = (each for each in records() if kind in each.kinds and each.modules is embeds)
    assert row(about, written_as(opened.family)) in table(), ASK
