"""The site is built of the pages with no link broken, and asks nothing of a network."""

import importlib.util
import re
from pathlib import Path

import pytest
import yaml

from tests import ROOT
from tests.docs import site
from tests.docs.command_line_page import PAGE, page
from tests.docs.rooms import links


def test_the_page_of_the_command_line_is_what_the_commands_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m tests.docs.command_line_page`"


def test_every_page_is_in_the_navigation(tmp_path: Path) -> None:
    listed = re.findall(r": ([\w/.-]+\.md)$", site.CONFIG.read_text(encoding="utf-8"), re.M)
    assert {f"docs/{each.name}" for each in (ROOT / "docs").glob("*.md")} <= set(listed)
    assert yaml.safe_load(site.CONFIG.read_text(encoding="utf-8"))["theme"]["highlightjs"] is False
    site.stage(tmp_path / "staged")
    assert [each for each in listed if not (tmp_path / "staged" / each).is_file()] == []
    for staged in (tmp_path / "staged").rglob("*.md"):
        assert [target for target in links(staged) if not (staged.parent / target).is_file()] == [], staged


@pytest.mark.skipif(importlib.util.find_spec("mkdocs") is None, reason="mkdocs is not installed")
def test_the_site_is_whole_and_needs_no_network(tmp_path: Path) -> None:
    site.build(tmp_path)
    built = [*(tmp_path / "site").rglob("*.html")]
    assert len(built) > 12
    for file in built:
        asked = re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="(https?:[^"]+)', file.read_text())
        assert asked == [], file
