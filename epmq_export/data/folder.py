"""The files of a directory, and which of them belong to one split."""

import re
from collections.abc import Iterable
from pathlib import Path

from epmq_export.errors import InputError, did_you_mean

SPLITS = frozenset(
    {"train", "training", "test", "testing", "val", "valid", "validation", "dev", "eval", "evaluation"}
)
"""Names of folders and files that are parts of a data set, and not classes."""

_SHARD = re.compile(r"(?P<split>.+?)-\d{5}-of-\d{5}(-[0-9a-f]+)?")


def files_in(directory: Path) -> list[Path]:
    """Return every file at any depth, sorted. Hidden files are left out, and so are those of directories that
    are hidden or begin with `__`, which systems and archives leave behind.

    Raises InputError for a link to a directory: its files would count neither as data nor in the directory's
    digest.
    """
    found = []
    for path in sorted(directory.rglob("*")):
        if path.is_symlink() and path.is_dir():
            raise InputError(f"{path}: found a link to a directory, expected the directory itself")
        if path.is_file() and not any(
            part.startswith((".", "__")) for part in path.relative_to(directory).parts
        ):
            found.append(path)
    return found


def told(files: list[Path]) -> str:
    """Return how many files there are and of which kinds, for the message about a directory that holds none
    of the expected files.
    """
    kinds = sorted({path.suffix.lower() or path.name for path in files})
    return (
        f"{len(files)} files ({', '.join(kinds[:6])}{', ...' if len(kinds) > 6 else ''})"
        if files
        else "no file"
    )


def tables_of(files: list[Path]) -> list[Path]:
    """Return the .parquet files among some files."""
    return [path for path in files if path.suffix.lower() == ".parquet"]


def of_split(directory: Path, tables: list[Path], asked: str | None, default: str) -> list[Path]:
    """Return the files of the split that is asked for, or else of `default`, or all files where none of them
    is of a split.

    Raises InputError where there is no such split.
    """
    splits = _splits_of(tables, directory)
    named = [name for name in splits if name is not None]
    if asked is None and not named:
        return tables
    chosen = splits.get(asked or default)
    if chosen is None:
        found = f"the splits {', '.join(named)}" if named else "no splits"
        raise InputError(
            f"{directory}: found {found} and not {asked or default!r}, expected the key split to name one "
            f"of them{did_you_mean(asked or default, named)}"
        )
    if others := [path for path in chosen if path.parent != chosen[0].parent]:
        raise InputError(
            f"{directory}: found the split {asked or default!r} in {chosen[0].parent} and in "
            f"{others[0].parent}, expected the path of one of them"
        )
    return chosen


def _splits_of(paths: Iterable[Path], directory: Path) -> dict[str | None, list[Path]]:
    """Return files by split, and under None those of no split.

    The split is the part before `-00000-of-00002` in the name. Where there is no such part, it is the whole
    name, or else the folder's name, where that is one of SPLITS.
    """
    found: dict[str | None, list[Path]] = {}
    for path in paths:
        shard = _SHARD.fullmatch(path.stem)
        usual = next(
            (
                name
                for name in (path.stem, path.parent.name if path.parent != directory else "")
                if name in SPLITS
            ),
            None,
        )
        found.setdefault(shard["split"] if shard else usual, []).append(path)
    return found
