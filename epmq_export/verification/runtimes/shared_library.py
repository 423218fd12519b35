"""Shared libraries of installed packages, called through ctypes without importing the package."""

import ctypes
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

Signatures = Mapping[str, tuple[Any, tuple[Any, ...]]]
"""The type of the result (None for void) and those of the arguments, by the name of the function."""


def find(module: str, pattern: str, endings: Sequence[str]) -> Path | None:
    """Return the first file in the directory of an installed module that fits the pattern and has one of the
    endings, or None where the module is not installed or has no such file.
    """
    spec = importlib.util.find_spec(module)
    roots = (spec.submodule_search_locations if spec else None) or []
    places = (place for root in roots for place in sorted(Path(root).glob(pattern)))
    return next((place for place in places if place.suffix in endings and place.is_file()), None)


def declare(library: ctypes.CDLL, signatures: Signatures) -> None:
    """Tell ctypes the functions that are called. Raises AttributeError where the library lacks one of
    them.
    """
    for name, (result, arguments) in signatures.items():
        function = getattr(library, name)
        function.restype, function.argtypes = result, arguments
