"""docs/architecture.md names every room, and what it points at is there."""

import ast
import re

import pytest

from tests import ROOT
from tests.docs.rooms import links, rooms

PAGE = ROOT / "docs" / "architecture.md"
WHERE = re.findall(
    r"^\| [^|]+ \| \[[^]]+\]\(([^)]+)\) \| `([\w.]+)` \|$", PAGE.read_text(encoding="utf-8"), re.M
)


def test_every_room_has_its_row() -> None:
    named = {(PAGE.parent / target).resolve() for target in links(PAGE)}
    assert [room for room in rooms() if ROOT / room not in named] == []


def test_every_row_says_where_something_is() -> None:
    section = PAGE.read_text(encoding="utf-8").partition("## Where is ...?")[2].partition("\n## ")[0]
    assert len(WHERE) == sum(line.startswith("| ") for line in section.splitlines()) - 1


@pytest.mark.parametrize(("file", "name"), WHERE, ids=lambda part: str(part))
def test_what_the_page_points_at_is_there(file: str, name: str) -> None:
    body = ast.parse((PAGE.parent / file).read_text(encoding="utf-8")).body
    for part in name.split("."):
        body = next(found for node in body if (found := _inside(node, part)) is not None)


def _inside(node: ast.stmt, name: str) -> list[ast.stmt] | None:
    """Return what is inside a statement that defines a name; None where it defines another one or none."""
    if isinstance(node, ast.ClassDef | ast.FunctionDef):
        return node.body if node.name == name else None
    targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
    return [] if any(isinstance(target, ast.Name) and target.id == name for target in targets) else None


def test_the_floors_of_the_picture_are_those_of_the_house() -> None:
    """Whoever moves a room moves it in the picture, too."""
    from tests.test_house import FLOORS

    picture = PAGE.read_text(encoding="utf-8").split("```mermaid\n")[2].partition("```")[0]
    drawn = set(re.findall(r"\w+", " ".join(re.findall(r'"([^"]+)"', picture))))
    assert {room for floor in FLOORS for room in floor} <= drawn
