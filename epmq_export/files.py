"""Whole or not at all: every output is written beside its place, synced, and renamed."""

import hashlib
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from epmq_export.errors import RecipeError


def sha256(path: Path) -> str:
    """Hex SHA-256 of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def partial(path: Path) -> Path:
    """Where `path` is built: a hidden name in the same directory, so that the rename at the end stays on one file system."""
    return path.with_name(f".{path.name}.partial")


def refuse_existing(path: Path, overwrite: bool) -> None:
    if path.exists() and not overwrite:
        raise RecipeError(f"{path} exists: give another place, or --overwrite")


def remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def publish(built: Path, path: Path) -> None:
    """Sync what was built and give it its name, replacing what is there; what is there stays where that fails."""
    for file in [*built.rglob("*"), built] if built.is_dir() else [built]:
        _sync(file)
    if path.is_dir() or (built.is_dir() and path.exists()):
        old = path.with_name(f".{path.name}.old")
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
    """A directory's own entry holds its names: without it a rename may be lost with the power. Windows has no such call."""
    if path.is_dir() and os.name == "nt":
        return
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def whole(path: Path) -> Iterator[Path]:
    """Yield a place to build a file or directory; it takes the name `path` only if the block succeeds, else it is removed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    built = partial(path)
    remove(built)
    try:
        yield built
        publish(built, path)
    finally:
        remove(built)
