"""The benchmark of speed, on tiny shapes."""

import json
import sys
from pathlib import Path

import pytest

from benchmarks import PAGE, RESULTS
from benchmarks.size import models
from benchmarks.speed.__main__ import MARKERS, main
from benchmarks.speed.calibrations import LIMIT
from benchmarks.speed.process import Run, summary, watched
from benchmarks.tables import replaced


def test_a_part_is_measured_and_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["--tiny", "--repeats", "1", "--work", str(tmp_path / "work"), "--results", str(tmp_path)]
    main(["adapters", *given])
    found = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))
    (row,) = found["rows"].values()
    assert 0 < row["epmq"]["least"] <= row["epmq"]["seconds"] <= row["epmq"]["most"]
    assert row["epmq"]["own"] > 2**26  # torch alone has more
    text = (tmp_path / "speed.md").read_text(encoding="utf-8")
    assert "merge of 4 LoRA adapters on tiny, tsvm" in text and found["machine"] in text
    assert text.endswith(capsys.readouterr().out.rstrip("\n") + "\n")
    assert not (tmp_path / "work" / "out").exists()


def test_a_calibration_is_held_against_its_products(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "VOCABULARY", 600)
    given = ["--tiny", "--repeats", "1", "--work", str(tmp_path / "work"), "--results", str(tmp_path)]
    main(["calibrate", *given])
    rows = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))["rows"]
    assert [*rows] == [
        "calibration of a layer of tiny, 4 LoRA experts of 32 texts",
        "calibration of 1 layers of CLIP, 64 wide, 4 experts of 2 images",
    ]
    for row in rows.values():
        assert 0 < row[LIMIT]["seconds"] < row["epmq"]["seconds"]


def test_a_training_is_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(models, "VOCABULARY", 600)
    given = ["--tiny", "--repeats", "1", "--work", str(tmp_path / "work"), "--results", str(tmp_path)]
    main(["refine", *given])
    rows = json.loads((tmp_path / "speed.json").read_text(encoding="utf-8"))["rows"]
    assert rows["refine of tiny, 2 steps, 16 samples"]["epmq"]["seconds"] > 0


def test_an_unknown_part_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["slowness", "--work", str(tmp_path)])
    assert "found slowness, expected some of merge, " in capsys.readouterr().err


def test_a_command_that_fails_is_told_with_its_words() -> None:
    with pytest.raises(RuntimeError, match="ended with 3: oh no"):
        watched([sys.executable, "-c", "print('oh no'); raise SystemExit(3)"])


def test_what_is_told_of_several_runs() -> None:
    runs = [Run(seconds, 2 * seconds, int(10 * seconds)) for seconds in (3.0, 1.0, 2.0)]
    assert summary(runs) == {"seconds": 2.0, "processor": 4.0, "own": 20, "least": 1.0, "most": 3.0}


def test_the_page_has_the_tables_of_the_results() -> None:
    text = PAGE.read_text(encoding="utf-8")
    tables = (RESULTS / "speed.md").read_text(encoding="utf-8").removeprefix("# Speed\n")
    assert replaced(text, MARKERS, tables, "") == text, "run: python -m benchmarks.speed"
