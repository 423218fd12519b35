"""Files that are whole or not there."""

import hashlib
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from epmq_export import files
from epmq_export.errors import OutputError, RecipeError


def everything(directory: Path) -> dict[str, bytes | None]:
    return {
        str(path.relative_to(directory)): path.read_bytes() if path.is_file() else None
        for path in directory.rglob("*")
    }


def test_sha256(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc" * 100_000)
    assert files.sha256(tmp_path / "a") == hashlib.sha256(b"abc" * 100_000).hexdigest()


def test_existing_outputs_are_refused(tmp_path: Path) -> None:
    files.refuse_existing(tmp_path / "new", overwrite=False)
    files.refuse_existing(tmp_path, overwrite=False)  # an empty directory is nothing to lose
    (tmp_path / "file").touch()
    files.refuse_existing(tmp_path, overwrite=True)
    with pytest.raises(RecipeError, match=r"exists: give another place, or --overwrite"):
        files.refuse_existing(tmp_path, overwrite=False)


def build(place: Path, directory: bool, content: str) -> None:
    if directory:
        (place / "sub").mkdir(parents=True)
        (place / "sub" / "file").write_text(content)
    else:
        place.write_text(content)


@pytest.mark.parametrize("directory", [False, True], ids=["file", "directory"])
@pytest.mark.parametrize("before", [None, False, True], ids=["nothing", "file", "directory"])
def test_the_new_replaces_the_old(tmp_path: Path, directory: bool, before: bool | None) -> None:
    path = tmp_path / "deep" / "out"
    if before is not None:
        path.parent.mkdir()
        build(path, before, "old")
    with files.whole(path) as built:
        assert built.parent == path.parent and not built.exists()
        build(built, directory, "new")
        assert path.exists() == (before is not None)
    assert everything(tmp_path) == (
        {"deep": None, "deep/out": None, "deep/out/sub": None, "deep/out/sub/file": b"new"}
        if directory
        else {"deep": None, "deep/out": b"new"}
    )


@pytest.mark.parametrize("directory", [False, True], ids=["file", "directory"])
@pytest.mark.parametrize("before", [None, False, True], ids=["nothing", "file", "directory"])
@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt])
def test_a_failure_leaves_what_was_there(
    tmp_path: Path, directory: bool, before: bool | None, error: type[BaseException]
) -> None:
    path = tmp_path / "out"
    if before is not None:
        build(path, before, "old")
    found = everything(tmp_path)
    with pytest.raises(error), files.whole(path) as built:
        build(built, directory, "half")
        raise error
    assert everything(tmp_path) == found


def test_a_block_that_builds_nothing_takes_nothing_away(tmp_path: Path) -> None:
    build(tmp_path / "out", True, "old")
    found = everything(tmp_path)
    with pytest.raises(OutputError), files.whole(tmp_path / "out"):
        pass
    assert everything(tmp_path) == found


def test_a_rename_that_fails_gives_the_old_directory_back(tmp_path: Path) -> None:
    """The name is taken from the old directory before the new one has it: between the two the rename fails
    for real.
    """
    old = tmp_path / "out"
    build(old, True, "old")
    with pytest.raises(OSError):
        files.publish(tmp_path, old)  # a directory cannot move into itself
    assert everything(old) == {"sub": None, "sub/file": b"old"} and [
        path.name for path in tmp_path.iterdir()
    ] == ["out"]


def left_by_a_killed_process(path: Path) -> tuple[Path, Path]:
    """Return what a process that was killed has left beside an output: what it built and what it replaced."""
    number = subprocess.run(
        [sys.executable, "-c", "import os; print(os.getpid())"], capture_output=True, text=True
    )
    names = [f".{path.name}.epmq-{number.stdout.strip()}.{kind}" for kind in ("partial", "old")]
    return path.with_name(names[0]), path.with_name(names[1])


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path) -> None:
    path = tmp_path / "out"
    half, older = left_by_a_killed_process(path)
    build(half, True, "half")
    build(older, True, "older")
    build(path, True, "old")
    with files.whole(path) as built:
        build(built, True, "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"] and (
        path / "sub" / "file"
    ).read_text() == "new"


def test_what_a_killed_run_was_to_replace_is_given_back(tmp_path: Path) -> None:
    path = tmp_path / "out"
    build(left_by_a_killed_process(path)[1], True, "old")
    with pytest.raises(ValueError), files.whole(path) as built:
        build(built, True, "new")
        raise ValueError
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"] and (
        path / "sub" / "file"
    ).read_text() == "old"


def test_names_like_ours_are_left_alone(tmp_path: Path) -> None:
    """Whoever keeps things beside an output under such names must not lose them."""
    for name in (".out.partial", ".out.old", ".out.lock", ".out.2.old", ".outer.epmq-1.partial"):
        build(tmp_path / name, True, "mine")
    with files.whole(tmp_path / "out") as built:
        build(built, True, "new")
    assert len([*tmp_path.iterdir()]) == 6
    assert (tmp_path / ".out.old" / "sub" / "file").read_text() == "mine"


@pytest.mark.parametrize("there", [True, False], ids=["directory", "nothing"])
def test_a_link_is_respected(there: bool, tmp_path: Path) -> None:
    """Whoever has put the large files elsewhere finds them there."""
    if there:
        build(tmp_path / "elsewhere", True, "old")
    (tmp_path / "deep").mkdir()
    link = tmp_path / "deep" / "out"
    link.symlink_to(Path("..") / "elsewhere")
    with files.whole(link) as built:
        assert built.parent == tmp_path  # on the file system of the link's target
        build(built, True, "new")
    assert link.is_symlink() and (tmp_path / "elsewhere" / "sub" / "file").read_text() == "new"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "elsewhere"]
    files.remove(link)
    assert (tmp_path / "elsewhere" / "sub" / "file").exists() and not link.exists()


def test_links_in_a_circle_and_roots_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to(tmp_path / "b")
    (tmp_path / "b").symlink_to(tmp_path / "a")
    for path, found in (
        (tmp_path / "a", "links that lead in a circle"),
        (Path("/"), "the root of a file system"),
    ):
        with pytest.raises(OutputError, match=found), files.whole(path):
            pass


def test_the_directory_that_one_works_in_is_filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another directory under its name would leave the shell in one that is gone."""
    place = tmp_path / "here"
    build(place, True, "old")
    (place / "older").touch()
    monkeypatch.chdir(place)
    before = place.stat().st_ino
    with pytest.raises(ValueError), files.whole(Path()) as built:
        build(built, True, "half")
        raise ValueError
    assert everything(place) == {"sub": None, "sub/file": b"old", "older": b""}
    with files.whole(Path("../here")) as built:
        build(built, True, "new")
    assert everything(Path()) == {"sub": None, "sub/file": b"new"} and place.stat().st_ino == before
    assert [path.name for path in tmp_path.iterdir()] == ["here"]


def test_long_names_are_names(tmp_path: Path) -> None:
    with files.whole(tmp_path / ("n" * 255)) as built:
        build(built, True, "new")
    assert [path.name for path in tmp_path.iterdir()] == ["n" * 255]


def test_a_directory_without_a_name_is_built_beside_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    with files.whole(Path()) as built:
        build(built, True, "new")
    assert everything(tmp_path)["here/sub/file"] == b"new"


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
def test_a_stream_is_written_into(tmp_path: Path) -> None:
    """/dev/stdout or /dev/null in the place of a file must not be replaced by one."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    found: list[bytes] = []
    reader = threading.Thread(target=lambda: found.append(pipe.read_bytes()))
    reader.start()
    with files.whole(pipe) as built:
        built.write_text("report")
    reader.join(timeout=30)
    assert found == [b"report"] and pipe.is_fifo() and [*tmp_path.iterdir()] == [pipe]


@contextmanager
def bound_by_permissions(directory: Path) -> Iterator[None]:
    """Be another user where this one is root, whom permissions do not bind. The directory becomes theirs."""
    if os.geteuid() != 0:
        yield
        return
    nobody = 65534
    for path in (directory, *directory.rglob("*")):
        os.chown(path, nobody, nobody)
    os.setresuid(nobody, nobody, 0)  # The last one is what it comes back by.
    try:
        yield
    finally:
        os.setresuid(0, 0, 0)


@pytest.mark.skipif(
    not hasattr(os, "setresuid"), reason="the system lets no process be another user for a while"
)
def test_a_directory_in_one_that_is_not_ours_is_filled() -> None:
    """A volume in a container: its own user may write in it, and not beside it."""
    # pytest's own directory is closed to other users.
    with tempfile.TemporaryDirectory() as place:
        volume = Path(place, "volume")
        volume.mkdir()
        with bound_by_permissions(Path(place)):
            Path(place).chmod(0o500)
            try:
                with pytest.raises(PermissionError):
                    (volume.parent / "file").touch()
                with files.locked(volume):
                    assert files.beside(volume, "blocks").parent == volume and not files.taken(volume)
                    with files.whole(volume) as built:
                        build(built, True, "new")
                assert everything(volume) == {"sub": None, "sub/file": b"new"}
            finally:
                Path(place).chmod(0o700)
