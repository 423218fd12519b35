"""Files that are written whole or not at all: every output is built beside its place, synced, and renamed."""

import hashlib
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NoReturn

from safetensors import SafetensorError

from epmq_export.errors import InputError, OutputError, RecipeError


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


def named(path: Path) -> Path:
    """Return the path as it is, or absolute where it has no name to build beside, such as `.`."""
    return path if path.name else path.absolute()


def partial(path: Path) -> Path:
    """Return the place where `path` is built: a hidden name in the same directory, so that the rename at the
    end stays on one file system.
    """
    path = named(path)
    return path.with_name(f".{path.name}.partial")


def taken(path: Path) -> bool:
    """Return whether something is there that a new output would replace. An empty directory is nothing."""
    return path.exists() and not (path.is_dir() and not any(path.iterdir()))


def refuse_existing(path: Path, overwrite: bool) -> None:
    """Raise RecipeError where an output is there already and may not be replaced."""
    if taken(path) and not overwrite:
        raise RecipeError(f"{path} exists: give another place, or --overwrite")


def make_directory(path: Path) -> None:
    """Make a directory with its parents, where it is not there yet. Raises OutputError where it cannot be
    made.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise OutputError(f"{path}: no directory can be made there ({error.strerror})") from None


def remove(path: Path) -> None:
    """Remove a file or a directory with all that is in it, where it is there."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def publish(built: Path, path: Path) -> None:
    """Sync what was built and give it its name, in place of what is there. What is there stays where that
    fails.
    """
    for file in [*built.rglob("*"), built] if built.is_dir() else [built]:
        _sync(file)
    if path.is_dir() or (built.is_dir() and path.exists()):
        old = partial(path).with_suffix(".old")
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
    is removed.

    Raises OutputError where the system does not let it be written.
    """
    path = named(path)
    make_directory(path.parent)
    built = partial(path)
    try:
        remove(built)
        yield built
        publish(built, path)
    except OutputError as error:  # The error of a file inside names the place that it was to have.
        raise OutputError(str(error).replace(str(built), str(path))) from None
    except (OSError, SafetensorError) as error:
        raise OutputError(f"{path}: cannot be written ({_reason(error, built)})") from None
    finally:
        remove(built)


def _reason(error: OSError | SafetensorError, built: Path) -> str:
    if not isinstance(error, OSError):
        return str(error)
    if error.strerror is None:  # numpy gives only the number of bytes that it could write.
        return f"{error}: is the disk full?"
    elsewhere = error.filename is not None and not Path(str(error.filename)).is_relative_to(built)
    return f"{error.strerror}: {error.filename}" if elsewhere else error.strerror


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.

    Raises InputError where the file is absent or broken, holds something else than an object, or has NaN or
    infinity, which JSON does not know.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"), parse_constant=_refuse_constant)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except (ValueError, RecursionError, OSError) as error:
        raise InputError(f"{path}: not readable as JSON ({error})") from None
    if not isinstance(content, dict):
        raise InputError(f"{path}: found a {type(content).__name__}, expected an object")
    return content


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
