"""Temporary directories go whatever ends their process."""

import gc
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from epmq_export.files import scratch
from epmq_export.files.scratch import Scratch
from tests import ROOT

HOLD = """
import sys
from epmq_export.files.scratch import Scratch
kept = Scratch("merge")
(kept.path / "large.safetensors").touch()
print(kept.path, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_it_goes_with_the_block_and_with_the_object(room: Path) -> None:
    with Scratch("verify") as path:
        (path / "file").touch()
        assert path.parent == room and path.name.startswith("epmq-verify-")
    assert [*room.iterdir()] == []
    kept = Scratch("merge")
    (kept.path / "file").touch()
    del kept
    gc.collect()
    assert [*room.iterdir()] == []


@pytest.mark.parametrize("end", ["kill", "exit"])
def test_what_a_dead_process_left_goes_and_a_living_one_keeps_its_own(end: str, room: Path) -> None:
    started = [
        subprocess.Popen(
            [sys.executable, "-c", HOLD],
            cwd=ROOT,
            env={"TMPDIR": str(room), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(2)
    ]
    dying = started[0]
    try:
        places = [Path((process.stdout or sys.stdin).readline().strip()) for process in started]
        if end == "kill":
            dying.kill()
            dying.wait()
            assert places[0].exists()
        else:
            dying.communicate("")
        mine = Scratch("merge")
        (room / "epmq-notes").mkdir()  # the name is not one of ours
        (room / "epmq-merge-0123456789ab").mkdir()  # its process was killed before it took the lock
        scratch.clear()
        assert {*room.iterdir()} == {places[1], mine.path, room / "epmq-notes"}
        assert (places[1] / "large.safetensors").exists()
        mine.close()
    finally:
        for process in started:
            process.kill()
            process.communicate()
