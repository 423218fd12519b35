"""Files that are written whole or not at all: every output is built beside its place, synced, and renamed."""

import hashlib
import json
import logging
import os
import shutil
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError

from epmq_export.errors import InputError, OutputError, RecipeError
from epmq_export.files.lock import Busy, Lock, Unlockable
from epmq_export.files.scratch import Scratch

log = logging.getLogger(__name__)


def sha256(path: Path) -> str:
    """Return the hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def tree_sha256(directory: Path) -> str:
    """Return the hex SHA-256 of the relative names and the contents of all files in a directory. It does not
    depend on the order in which the system lists them.
    """
    digest = hashlib.sha256()
    for path in sorted(path for path in directory.rglob("*") if path.is_file()):
        digest.update(f"{path.relative_to(directory).as_posix()}\0{sha256(path)}\n".encode())
    return digest.hexdigest()


def place_of(path: Path) -> Path:
    """Return the place that an output gets: the path, or what a link leads to, under a name to build beside.

    Raises OutputError for the root of a file system, and for links that lead in a circle.
    """
    # Python 3.13 returns links that lead in a circle as they are, earlier versions refuse them.
    try:
        place = path.resolve() if path.is_symlink() or path.name in ("", "..") else path
    except (OSError, RuntimeError):
        place = path
    if place.is_symlink():
        raise OutputError(f"{path}: found links that lead in a circle, expected a place to write")
    if not place.name:
        raise OutputError(f"{path}: found the root of a file system, expected a place to write")
    return place


def beside(path: Path, kind: str) -> Path:
    """Return a hidden name in the directory of `path` that says its use, the same in each run."""
    place = place_of(path)
    if place.is_dir() and not os.access(place.parent, os.W_OK):
        return place / f"{_OURS}{kind}"  # Nothing can be made beside it.
    return place.with_name(f".{_stem(place)}.{kind}")


def partial(path: Path) -> Path:
    """Return the place where this process builds `path`: on the same file system, so that the rename at the
    end is one, and in the directory itself where that must stay what it is.
    """
    place = place_of(path)
    return place / f"{_OURS}{os.getpid()}.partial" if _stays(place) else _own(place, "partial")


def _stem(place: Path) -> str:
    """Return the name, or what stands for one that leaves a longer name no room."""
    long = len(os.fsencode(place.name)) > 200
    return hashlib.sha256(os.fsencode(place.name)).hexdigest()[:16] if long else place.name


_OURS = ".epmq-"


def _own(place: Path, kind: str) -> Path:
    """Return a name beside a place that is this process's own."""
    return place.with_name(f".{_stem(place)}{_OURS}{os.getpid()}.{kind}")


def _stays(place: Path) -> bool:
    """Return whether a directory cannot be replaced by another: a volume, the one that somebody works in, one
    whose name we may not change. It is filled instead.
    """
    if not place.is_dir():
        return False
    with suppress(FileNotFoundError):  # Somebody has removed the directory that we work in.
        if place.samefile(Path.cwd()):
            return True
    return place.is_mount() or not os.access(place.parent, os.W_OK)


def taken(path: Path) -> bool:
    """Return whether something is there that a new output would replace. An empty directory is nothing."""
    if not path.is_dir():
        return path.exists()
    return any(not entry.name.startswith(_OURS) for entry in path.iterdir())


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise RecipeError where an output is there already and may not be replaced."""
    if taken(path) and not overwrite:
        raise RecipeError(f"{path} exists: give another place, or --overwrite")


def make_directory(path: Path) -> list[Path]:
    """Make a directory with its parents, where it is not there yet. Return those that were made, the
    outermost first. Raises OutputError where it cannot be made.
    """
    place = place_of(path)
    try:
        lacking = [each for each in (*reversed(place.parents), place) if not each.exists()]
        place.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: no directory can be made there ({error.strerror})") from None
    return lacking


def is_stream(path: Path) -> bool:
    """Return whether what is there can only be written into, as a pipe, a terminal or /dev/null."""
    if not path.exists() or path.is_dir():
        return False
    return not path.is_file() or path.absolute().is_relative_to("/dev")


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Have an output for this process alone, and take away what a killed one has left of it.

    Whoever has it already may take it again. Raises OutputError, which names the other process, where another
    has it, and where nothing can be written.
    """
    if is_stream(path):
        yield
        return
    place = place_of(path)
    key = os.path.realpath(place), threading.get_ident()
    if key in _HELD:
        yield
        return
    made = make_directory(place.parent)
    lock = None
    try:
        lock = _taken_lock(path, place)
        _HELD.add(key)
        _clear(place)
        yield
    finally:
        _HELD.discard(key)
        if lock is not None:
            lock.release()
        for directory in reversed(made):
            with suppress(OSError):  # It has what was written.
                directory.rmdir()


_HELD: set[tuple[str, int]] = set()
"""The places that are locked, each with the thread that has it."""


def _taken_lock(path: Path, place: Path) -> Lock | None:
    try:
        return Lock(beside(place, "epmq-lock"))
    except Busy as busy:
        raise OutputError(
            f"{path}: found {busy.holder} at work on it, expected no other: wait for its end, or give "
            "another place"
        ) from None
    except Unlockable:
        log.warning("%s: its file system knows no locks, so no other run may write there meanwhile", path)
        return None
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from None


def _clear(place: Path) -> None:
    """Remove what a killed process has left beside a place that is locked, and give back what it was to
    replace.
    """
    begin = f".{_stem(place)}{_OURS}"
    if place.is_dir():
        _settle(place)
    for each in [each for each in place.parent.iterdir() if each.name.startswith(begin)]:
        if each.suffix == ".old" and not place.exists():
            each.rename(place)
        elif each.suffix in (".old", ".partial"):
            remove(each)


def _settle(directory: Path) -> None:
    """Remove what a killed process has left in a directory that it was to fill. Where it had begun to, what
    was there comes back, or what was built comes in, whichever is whole.
    """
    left = [each for each in directory.iterdir() if each.name.startswith(_OURS)]
    for each in left:
        if each.suffix == ".emptied":
            _move(each, directory)
        elif each.suffix == ".old" and (built := each.with_suffix(".partial")).is_dir():
            _move(built, directory)
    for each in left:
        if each.suffix in (".emptied", ".old", ".partial"):
            remove(each)


def _move(directory: Path, to: Path) -> list[Path]:
    """Move what is in a directory into another one. Return the new places."""
    return [each.rename(to / each.name) for each in sorted(directory.iterdir())]


def remove(path: Path) -> None:
    """Remove a file or a directory with all that is in it, where it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def discard(path: Path) -> None:
    """Remove what is at a place in one step: a killed process leaves it as it was, or under a name that the
    next one to lock the place clears away.
    """
    if path.is_dir() and not path.is_symlink() and not _stays(path):
        path = path.rename(_own(path, "partial"))
    remove(path)


def publish(built: Path, path: Path) -> None:
    """Sync what was built and give it its name, in place of what is there. What is there stays where that
    fails, but in a directory that must stay what it is.
    """
    for file in [*built.rglob("*"), built] if built.is_dir() else [built]:
        _sync(file)
    if built.parent == path:
        _fill(path, built)
    elif path.is_dir() or (built.is_dir() and path.exists()):
        old = _own(path, "old")
        remove(old)
        path.rename(old)
        try:
            built.rename(path)
        except BaseException:
            old.rename(path)
            raise
        remove(old)
    else:
        built.replace(path)
    _sync(path.parent)


def _fill(directory: Path, built: Path) -> None:
    """Replace what is in a directory by what was built in it. `_settle` says what comes of a killed process:
    its directory is called `emptied` until all of what was there lies in it, and `old` from then on.
    """
    old, moved = built.with_suffix(".emptied"), list[Path]()
    old.mkdir()
    try:
        for each in [*directory.iterdir()]:
            if not each.name.startswith(_OURS):
                each.rename(old / each.name)
        old = old.rename(old.with_suffix(".old"))
        for each in sorted(built.iterdir()):
            moved.append(each.rename(directory / each.name))
    except BaseException:
        for each in moved:
            remove(each)
        _move(old, directory)
        old.rmdir()
        raise
    remove(old)
    _sync(directory)


def _sync(path: Path) -> None:
    """Flush a file, or the names in a directory, to the disk. Without the latter a rename may be lost in a
    power failure. Windows has no such call for directories.
    """
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a place to build a file or directory. It gets the name `path` only if the block succeeds, else it
    is removed. Meanwhile the name is locked.

    Raises OutputError where the system does not let it be written, and where another process writes it.
    """
    if is_stream(path):
        with Scratch("stream") as scratch:
            yield scratch / "whole"
            _pour(scratch / "whole", path)
        return
    with locked(path):
        place, built = place_of(path), partial(path)
        try:
            remove(built)
            yield built
            publish(built, place)
        except OutputError as error:  # The error of a file inside names the place that it was to have.
            raise OutputError(str(error).replace(str(built), str(path))) from None
        except (OSError, SafetensorError) as error:
            raise OutputError(f"{path}: cannot be written ({_reason(error, built)})") from None
        finally:
            remove(built)


def _pour(built: Path, path: Path) -> None:
    """Write a file's bytes into a stream."""
    try:
        with path.open("ab") as stream:
            stream.write(built.read_bytes())
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from None


def _reason(error: OSError | SafetensorError, built: Path) -> str:
    if not isinstance(error, OSError):
        return str(error)
    if error.strerror is None:  # numpy gives only the number of bytes that it could write.
        return f"{error}: is the disk full?"
    elsewhere = error.filename is not None and not Path(str(error.filename)).is_relative_to(built)
    return f"{error.strerror}: {error.filename}" if elsewhere else error.strerror


def refuse_pointer(path: Path, found: str) -> None:
    """Raise InputError for a file of Git LFS's that stands for one that has not been fetched. `found` is what
    is wrong with it as the file that it should be.
    """
    try:
        pointer = path.stat().st_size < 1024 and path.read_bytes().startswith(b"version https://git-lfs.")
    except OSError:
        return
    if pointer:
        raise InputError(
            f"{path}: {found} (it is a Git LFS pointer, which stands for the file: `git lfs pull` in its "
            "repository fetches it)"
        )


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises InputError where the file is absent or broken, holds something else than an object, or has NaN or
    infinity, which JSON does not know.
    """
    content = _parsed(path)
    if not isinstance(content, dict):
        raise InputError(f"{path}: found a {type(content).__name__}, expected an object")
    return content


def read_json_list(path: Path) -> list[Any]:
    """Return the list in a JSON file. Raises InputError as `read_json` does."""
    content = _parsed(path)
    if not isinstance(content, list):
        raise InputError(f"{path}: found a {type(content).__name__}, expected a list")
    return content


def _parsed(path: Path) -> Any:  # noqa: ANN401 - whatever the file holds
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except (FileNotFoundError, NotADirectoryError):
        raise InputError(f"{path}: no such file") from None
    except (ValueError, RecursionError, OSError) as error:
        refuse_pointer(path, "not readable as JSON")
        raise InputError(f"{path}: not readable as JSON ({error})") from None


def _refuse_constant(constant: str) -> NoReturn:
    raise ValueError(f"{constant} is no JSON number")


def encodable(text: str) -> bool:
    """Return whether UTF-8 can hold the text. Escapes in YAML and JSON can write half of a surrogate pair,
    which it cannot.
    """
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
