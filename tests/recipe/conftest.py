"""The models and data that the recipes of these tests name."""

from pathlib import Path

import pytest


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with empty models and small files of data."""
    for name in ("base", "mood", "adapter", "data"):
        (tmp_path / name).mkdir()
    for name in ("mood.txt", "data/more.tsv", "data/test.tsv"):
        (tmp_path / name).write_text("a\tb\n")
    return tmp_path
