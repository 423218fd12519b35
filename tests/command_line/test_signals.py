"""Commands that are ended from outside, and two commands at once on one output."""

import signal
import time
from pathlib import Path

import pytest

from tests.command_line.command import Cold, Running, Warm
from tests.tiny.recipe_project import Project

ENDS = [(signal.SIGINT, 130, "interrupted;"), (signal.SIGTERM, 143, "interrupted by SIGTERM;")]
ENDS += [(signal.SIGHUP, 129, "interrupted by SIGHUP;")]


def slow(project: Project, place: Path) -> Path:
    """Write a recipe whose merge takes long and is kept in a temporary directory meanwhile."""
    return project.variant(place, merge_method="wudi", parameters={"steps": 100_000})


def left(room: Path) -> list[Path]:
    """Return what lies in the room of temporary files, but for caches of libraries."""
    return [*room.glob("epmq-*")]


def until_at_work(process: Cold | Running, room: Path) -> None:
    deadline = time.monotonic() + 300
    while not [*room.glob("epmq-merge-*")]:
        assert process.running() and time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(("number", "code", "said"), ENDS, ids=["INT", "TERM", "HUP"])
def test_each_end_clears_everything_away(
    number: signal.Signals, code: int, said: str, project: Project, epmq: Warm, tmp_path: Path
) -> None:
    """Ctrl-C ends a process that has been started from nothing, with what Python itself makes of it."""
    if signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip(f"{number.name} is ignored here, as under nohup, and stays so in what is started")
    recipe, room = slow(project, tmp_path / "recipe.yaml"), tmp_path / "room"
    room.mkdir()
    begin = Cold if number == signal.SIGINT else epmq.start
    process = begin("calibrate", recipe, "-o", "deep/out", folder=tmp_path, TMPDIR=str(room))
    try:
        until_at_work(process, room)
        process.send_signal(number)
        process.send_signal(number)  # as `timeout` does, by process and by group
        result = process.result(timeout=60)
    finally:
        process.kill()
    assert (result.code, result.stdout) == (code, "")
    assert result.error == f"{said} nothing half-written was left, and --resume goes on with a calibration"
    assert left(room) == [] and not [*tmp_path.rglob("*.partial")] and not [*tmp_path.rglob("*lock")]


def test_what_kill_leaves_is_cleared_by_the_next(project: Project, epmq: Warm, tmp_path: Path) -> None:
    recipe, room = slow(project, tmp_path / "recipe.yaml"), tmp_path / "room"
    room.mkdir()
    process = epmq.start("calibrate", recipe, "-o", "out", folder=tmp_path, TMPDIR=str(room))
    try:
        until_at_work(process, room)
    finally:
        process.kill()
        assert process.result(timeout=60).code == -signal.SIGKILL
    assert left(room) != []
    again = epmq("merge", project.recipe, "-o", "out", folder=tmp_path, TMPDIR=str(room))
    assert again.code == 0, again.stderr
    assert left(room) == []
    assert {path.name for path in tmp_path.iterdir()} <= {"recipe.yaml", "room", "out", ".out.blocks"}


def test_a_signal_that_the_caller_has_turned_off_stays_off(
    project: Project, epmq: Warm, tmp_path: Path
) -> None:
    """Ignore SIGHUP in the caller, which is what nohup does."""
    recipe, room = slow(project, tmp_path / "recipe.yaml"), tmp_path / "room"
    room.mkdir()
    off, place = [signal.SIGHUP], str(room)
    process = epmq.start("calibrate", recipe, "-o", "out", folder=tmp_path, ignored=off, TMPDIR=place)
    try:
        until_at_work(process, room)
        process.send_signal(signal.SIGHUP)
        time.sleep(0.5)
        assert process.running()
        process.send_signal(signal.SIGTERM)
        assert process.result(timeout=60).code == 143
    finally:
        process.kill()


def test_the_second_on_one_output_is_told_of_the_first(project: Project, epmq: Warm, tmp_path: Path) -> None:
    recipe, room = slow(project, tmp_path / "recipe.yaml"), tmp_path / "room"
    room.mkdir()
    first = epmq.start("run", recipe, "-o", "out", folder=tmp_path, TMPDIR=str(room))
    try:
        until_at_work(first, room)
        for command in ("run", "merge", "calibrate"):
            second = epmq(command, project.recipe, "-o", "./out", "--overwrite", folder=tmp_path)
            assert second.code == 3 and second.stdout == ""
            assert second.error == (
                f"out: found process {first.pid} at work on it, expected no other: wait for its end, or give "
                "another place"
            )
        first.send_signal(signal.SIGTERM)
        first.result(timeout=60)
    finally:
        first.kill()
    assert epmq("merge", project.recipe, "-o", "free", folder=tmp_path).code == 0
