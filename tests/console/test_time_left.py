"""The time that is left of a stage, and what is shown of it where there is no terminal."""

import pytest

from epmq_export.console import progress as display
from epmq_export.console.progress import ProgressDisplay
from epmq_export.console.time_left import TimeLeft
from epmq_export.pipeline.progress import Progress


def test_steps_that_are_left_last_as_long_as_those_that_are_done() -> None:
    left = TimeLeft()
    assert left.told(0, 10, 5.0) == ""
    assert left.told(1, 10, 6.0) == ""  # one second says little
    assert left.told(2, 10, 25.0) == "about 80 s left"
    assert left.told(2, 10, 35.0) == "about 70 s left"  # a step is running
    assert left.told(4, 10, 65.0) == "about 2 min left"
    assert left.told(10, 10, 165.0) == ""


def test_each_count_of_a_stage_is_one_of_its_own() -> None:
    left = TimeLeft()
    left.told(0, 4, 0.0)
    assert left.told(2, 4, 20.0) == "about 20 s left"
    assert left.told(0, 4, 40.0) == "" and left.told(0, 600, 41.0) == ""
    assert left.told(60, 600, 101.0) == "about 9 min left"
    assert left.told(0, 0, 102.0) == ""


def test_what_an_interrupted_run_had_done_counts_as_nothing() -> None:
    left = TimeLeft()
    left.told(0, 100, 0.0)
    assert left.told(50, 100, 0.1) == ""
    assert left.told(60, 100, 100.1) == "about 7 min left"


def test_long_times_are_hours() -> None:
    left = TimeLeft()
    left.told(0, 100, 0.0)
    assert left.told(10, 100, 3600.0) == "about 9.0 h left"


def test_plain_lines_have_the_time_left(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(display, "QUIET", 0.0)
    show = ProgressDisplay()
    show(Progress("calibrate"))
    show(Progress("calibrate", text="encoder.layer.0", done=0, total=4))
    show(Progress("calibrate", text="encoder.layer.1", done=1, total=4, seconds=10.0))
    show(Progress("calibrate", text="measuring", seconds=11.0))
    show(Progress("calibrate", state="finished", seconds=40.0))
    assert capsys.readouterr().err.splitlines() == [
        "calibrate: encoder.layer.0 (0 of 4)",
        "calibrate: encoder.layer.1 (1 of 4, about 30 s left)",
        "calibrate: measuring",
        "calibrate: 40.0 s",
    ]
