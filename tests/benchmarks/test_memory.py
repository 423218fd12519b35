"""The benchmark of memory, on tiny shapes."""

import time
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from benchmarks import PAGE
from benchmarks.robustness import memory
from benchmarks.robustness.memory import COMMANDS, MARKERS, TINY, TOLD, Row, growth, measured, row_of, told
from benchmarks.tables import replaced


def hold(size: int) -> None:
    held = torch.ones(size, dtype=torch.uint8)
    time.sleep(0.2)
    del held


def test_what_a_process_holds_beyond_its_start_is_counted(tmp_path: Path) -> None:
    most, code = measured(lambda: hold(100_000_000), tmp_path / "said", None)
    assert code == 0 and 95_000_000 < most < 150_000_000


def test_a_process_that_holds_more_than_the_limit_is_killed(tmp_path: Path) -> None:
    most, code = measured(lambda: hold(100_000_000), tmp_path / "said", 50_000_000)
    assert code == -9 and most > 50_000_000
    assert measured(lambda: hold(10), tmp_path / "said", 50_000_000)[1] == 0


def test_a_row_has_what_was_measured_and_what_was_forecast(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    every = memory.jobs

    def some(asked: Path, out: Path) -> Mapping[str, object]:
        found = every(asked, out)
        assert tuple(found) == COMMANDS
        return {"merge": found["merge"], "export": found["export"]}  # There is nothing yet to export.

    monkeypatch.setattr(memory, "jobs", some)
    row = row_of(tmp_path, TINY, 2)
    assert row.failed is not None and row.failed.startswith("export: ")
    assert row.most["merge"] > 0 and min(row.told.values()) > 0
    base = tmp_path / "64-2" / "base" / "model.safetensors"
    assert row.size < base.stat().st_size < 1.1 * row.size
    assert row.cells()[3] != "" == row.cells()[6]


def test_the_table_says_how_it_grows() -> None:
    few, many = (
        Row(experts, TINY, dict.fromkeys(COMMANDS, 10**8 * experts), dict.fromkeys(TOLD, 10**9))
        for experts in (2, 3)
    )
    assert told("experts", [few, many]) == [growth([few, many], "experts")]
    assert "verify 1.50" in growth([few, many], "experts") and told("limit", [few]) == []
    few.failed = "merge"
    assert told("experts", [few, many]) == ["experts: merge"]
    assert many.cells() == ("3", "2", "0 MB", *["300 MB"] * 4, "1,000 MB", "1,000 MB", "")


def test_the_page_has_the_place_of_the_table() -> None:
    page = PAGE.read_text(encoding="utf-8")
    assert "new content" in replaced(page, MARKERS, "new content", PAGE.name)
