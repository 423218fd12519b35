"""Files that are whole or not there."""

import hashlib
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


def test_what_a_killed_run_left_is_cleared_away(tmp_path: Path) -> None:
    path = tmp_path / "out"
    build(files.partial(path), True, "half")
    build(tmp_path / ".out.old", True, "older")
    build(path, True, "old")
    with files.whole(path) as built:
        build(built, True, "new")
    assert [entry.name for entry in tmp_path.iterdir()] == ["out"] and (
        path / "sub" / "file"
    ).read_text() == "new"


def test_a_link_is_replaced_and_not_followed(tmp_path: Path) -> None:
    build(tmp_path / "elsewhere", True, "mine")
    (tmp_path / "out").symlink_to(tmp_path / "elsewhere")
    with files.whole(tmp_path / "out") as built:
        build(built, True, "new")
    assert (
        not (tmp_path / "out").is_symlink()
        and (tmp_path / "elsewhere" / "sub" / "file").read_text() == "mine"
    )
    (tmp_path / "link").symlink_to(tmp_path / "elsewhere")
    files.remove(tmp_path / "link")
    assert (tmp_path / "elsewhere" / "sub" / "file").exists() and not (tmp_path / "link").exists()


def test_a_directory_without_a_name_is_built_beside_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "here"
    place.mkdir()
    monkeypatch.chdir(place)
    with files.whole(Path()) as built:
        build(built, True, "new")
    assert everything(tmp_path)["here/sub/file"] == b"new"
