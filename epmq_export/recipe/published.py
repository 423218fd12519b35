"""A recipe as others may read it: without the places of the machine that it was written on."""

import os
from pathlib import Path
from typing import Any


def published(value: Any, directory: Path) -> Any:  # noqa: ANN401
    """Return a recipe, or a part of one, as plain data in which no absolute path is left.

    A path to something in the recipe's `directory` becomes relative to it; of another one its own name is
    left. Texts that name nothing that exists stay as they are.
    """
    if isinstance(value, dict):
        return {key: published(item, directory) for key, item in value.items()}
    if isinstance(value, list):
        return [published(item, directory) for item in value]
    if isinstance(value, str) and (value.startswith("~") or Path(value).is_absolute()):
        # A model and its adapter are two places with a + between them.
        parts = [value] if _exists(value) else value.split("+")
        return "+".join(_without_place(part, directory) for part in parts)
    return value


def _without_place(text: str, directory: Path) -> str:
    """Return an absolute path that exists as others may read it; any other text as it is."""
    if not _exists(text):
        return text
    path = Path(text).expanduser()
    if not path.is_absolute():
        return text
    return os.path.relpath(path, directory) if path.is_relative_to(directory) else path.name


def _exists(text: str) -> bool:
    try:
        return Path(text).expanduser().exists()
    except (OSError, ValueError, RuntimeError):  # too long, a NUL, or no such ~user
        return False
