"""Kills of a process that writes, at every call: `python -m tests.files.kill_trials FOLDER`.

They are a small process's own, because forks of one that has torch loaded are slow.
"""

import os
import sys
from collections.abc import Callable
from pathlib import Path

from benchmarks.robustness.killing import calls, run
from epmq_export import files


def a_file(path: Path, text: str) -> None:
    path.write_text(text)


def a_directory(path: Path, text: str) -> None:
    path.mkdir(exist_ok=True)
    (path / "sub").mkdir()
    (path / "sub" / "file").write_text(text)
    (path / text).write_text(text)


def content(path: Path) -> object:
    if path.is_file():
        return path.read_text()
    return {str(each.relative_to(path)): each.read_bytes() for each in path.rglob("*") if each.is_file()}


def settled(path: Path) -> object:
    """Return what is there once the next process has locked it. Nothing else may be left."""
    with files.locked(path):
        pass
    assert [entry.name for entry in path.parent.iterdir()] in ([path.name], [])
    return content(path)


def whole(path: Path, said: Path, build: Callable[[Path, str], None], there: bool, filled: bool) -> None:
    """Kill the writing of a file or directory. `there`: an old one is replaced. `filled`: the process works
    in the directory, which must stay what it is.
    """

    def begin() -> object:
        files.remove(path)
        if there:
            build(path, "old")
        elif filled:
            path.mkdir()
        return content(path)

    def job() -> None:
        if filled:
            os.chdir(path)
        with files.whole(path) as built:
            build(built, "new")

    begin()
    count = calls(job, said)
    new = content(path)
    assert count >= 5
    found = []
    for number in range(1, count + 1):
        old = begin()
        assert run(job, said, before=number) == -9
        found.append(settled(path))
        assert found[-1] in (old, new), (number, found[-1])
        assert run(job, said) == 0, said.read_text()
        assert settled(path) == new
    assert found[0] == old and found[-1] == new


def discarded(path: Path, said: Path) -> None:
    """Kill the removal of a directory."""
    a_directory(path, "old")
    old = content(path)
    count = calls(lambda: files.discard(path), said)
    assert not path.exists() and count >= 4
    for number in range(1, count + 1):
        a_directory(path, "old")
        assert run(lambda: files.discard(path), said, before=number) == -9
        assert not path.exists() or content(path) == old
        settled(path)
        files.remove(path)


def main(folder: Path) -> None:
    path, said = folder / "outputs" / "out", folder / "said"
    path.parent.mkdir()
    for there in (True, False):
        whole(path, said, a_file, there, filled=False)
        whole(path, said, a_directory, there, filled=False)
        whole(path, said, a_directory, there, filled=True)
    files.remove(path)
    discarded(path, said)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
