"""What every page keeps to: its links lead somewhere, its lines are short, its maps are whole."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from epmq_export._version import __version__
from epmq_export.tensors.packed_index import PackedIndex
from tests import ROOT
from tests.docs.rooms import links, rooms, top_folders

PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
GENERATED = ("api.md", "command-line.md", "results.md")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page: Path) -> None:
    assert [target for target in links(page) if not (page.parent / target).exists()] == []


@pytest.mark.parametrize(
    "page", [page for page in PAGES if page.name not in GENERATED], ids=lambda page: page.name
)
def test_lines_are_short(page: Path) -> None:
    """Rows of tables, which cannot be broken, are as long as they are."""
    lines = page.read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if len(line) > 110 and not line.startswith("|")] == []


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) < 200


def test_the_map_of_contributing_is_the_tree() -> None:
    """The map is indented by four for what lies at the root, and by four more for a room."""
    text = (ROOT / "CONTRIBUTING.md").read_text(encoding="utf-8")
    house = text.partition("## The house\n")[2].partition("\n**")[0]
    tops: list[str] = []
    named: list[Path] = []
    for line in house.splitlines():
        names = re.split(r"\s{2,}", line.strip())[0].split()
        if line.startswith("        "):
            named += [Path(tops[-1], name) for name in names]
        elif line.startswith("    "):
            tops += names
    assert top_folders() == {top.rstrip("/") for top in tops} - {"cli.py"}
    assert [path for path in [*map(Path, tops), *named] if not (ROOT / path).exists()] == []
    assert set(rooms()) <= set(named)


def test_files_md_names_every_key_of_packed_json() -> None:
    text = (ROOT / "docs" / "files.md").read_text(encoding="utf-8")
    section = text.partition("## The packed checkpoint")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| `(\w+)` \|", section.partition("`packed.safetensors` holds")[0], re.MULTILINE)
    assert sorted(rows) == sorted(["format", *(field.name for field in fields(PackedIndex))])


def test_the_changelog_tells_of_this_version() -> None:
    text = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")
    assert re.search(rf"^## {re.escape(__version__)} - \d{{4}}-\d\d-\d\d$", text, re.MULTILINE)
