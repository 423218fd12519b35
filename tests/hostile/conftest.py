"""The files that wrong recipes name."""

from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with data, a model and files that are no JSON of labels."""
    folder = tmp_path_factory.mktemp("recipes")
    (folder / "data").mkdir()
    (folder / "experts" / "sst2").mkdir(parents=True)
    (folder / "data" / "mood.tsv").write_text("0\tso it goes\n")
    (folder / "data" / "weights.bin").write_bytes(b"\x80\x02")
    (folder / "data" / "broken.json").write_text('["a", ')
    (folder / "data" / "numbers.json").write_text("[1, 2]")
    (folder / "data" / "scalar.json").write_text("3")
    (folder / "data" / "half.json").write_text('{"a": "\\ud800", "b": "b"}')
    (folder / "data" / "deep.json").write_text("[" * 100_000)
    return folder
