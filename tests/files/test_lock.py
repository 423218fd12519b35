"""An output is one process's at a time, and death frees it."""

import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from epmq_export import files
from epmq_export.errors import OutputError
from epmq_export.files.lock import Busy, Lock
from tests import ROOT

HOLD = """
import sys
from pathlib import Path
from epmq_export import files
with files.whole(Path(sys.argv[1])) as built:
    built.mkdir()
    (built / "half").touch()
    print("ready", flush=True)
    sys.stdin.read()
"""


@contextmanager
def another_at_work(path: Path) -> Iterator[subprocess.Popen[str]]:
    """Have another process that is writing an output. It ends with its stdin."""
    pipe = subprocess.PIPE
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(HOLD), str(path)], cwd=ROOT, stdin=pipe, stdout=pipe, text=True
    )
    try:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield process
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize("spelled", ["out", "deep/../out", "link"])
def test_the_second_is_told_who_is_the_first(spelled: str, tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "link").symlink_to("out")
    with another_at_work(tmp_path / "out") as first:
        before = sorted(path.name for path in tmp_path.rglob("*"))
        with pytest.raises(OutputError) as caught, files.locked(tmp_path / spelled):
            pass
        assert str(caught.value) == (
            f"{tmp_path / spelled}: found process {first.pid} at work on it, expected no other: wait for its "
            "end, or give another place"
        )
        assert sorted(path.name for path in tmp_path.rglob("*")) == before
        with files.whole(tmp_path / "other") as built:  # Another place is free.
            built.touch()
        first.communicate("")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "link", "other", "out"]


def test_death_frees_it_and_what_it_left_is_cleared(tmp_path: Path) -> None:
    with another_at_work(tmp_path / "out") as first:
        first.kill()
        first.wait()
        assert len([*tmp_path.iterdir()]) == 2  # its lock, and what it was building
        with files.whole(tmp_path / "out") as built:
            built.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_who_has_it_may_take_it_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    with files.locked(out), files.locked(out), files.whole(out) as built:
        built.write_text("whole")
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_another_thread_is_another(tmp_path: Path) -> None:
    said: list[str] = []

    def second() -> None:
        try:
            with files.locked(tmp_path / "out"):
                said.append("locked")
        except OutputError as error:
            said.append(str(error))

    with files.locked(tmp_path / "out"):
        thread = threading.Thread(target=second)
        thread.start()
        thread.join()
    assert len(said) == 1 and "at work on it" in said[0]


def test_nothing_is_left_of_a_job_that_fails(tmp_path: Path) -> None:
    with pytest.raises(ValueError), files.locked(tmp_path / "a" / "b" / "out"):
        assert (tmp_path / "a" / "b").is_dir()
        raise ValueError
    assert [*tmp_path.iterdir()] == []


def test_a_lock_whose_file_is_gone_is_taken_anew(tmp_path: Path) -> None:
    first = Lock(tmp_path / "lock")
    with pytest.raises(Busy):
        Lock(tmp_path / "lock")
    (tmp_path / "lock").unlink()
    second = Lock(tmp_path / "lock")  # whoever removes a lock by hand frees it
    first.file = tmp_path / "gone"
    first.release()
    with pytest.raises(Busy):
        Lock(tmp_path / "lock")
    second.release()
    assert [*tmp_path.iterdir()] == []
