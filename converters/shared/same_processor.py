"""Whether two models take their pictures alike, by their preprocessor_config.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from epmq_export.errors import InputError
from epmq_export.files import read_json

FILE = "preprocessor_config.json"
COMPUTES = (
    "do_resize",
    "size",
    "resample",
    "do_center_crop",
    "crop_size",
    "do_rescale",
    "rescale_factor",
    "do_normalize",
    "image_mean",
    "image_std",
)
"""What decides the numbers that a model is given. The library's own defaults stand for what is absent."""


def require_same_processor(base: Path, expert: Path, name: str) -> list[str]:
    """Raise InputError, with both values, where an expert's pictures are prepared otherwise than the base's.

    A directory without the file has nothing to compare. Nothing is told.
    """
    if not (base / FILE).is_file() or not (expert / FILE).is_file():
        return []
    if read_json(base / FILE) == read_json(expert / FILE):
        return []
    from epmq_export.models.processor import load_processor  # only where two are not written alike

    ours, theirs = load_processor(base), load_processor(expert)
    differing = [key for key in COMPUTES if _value(ours, key) != _value(theirs, key)]
    if differing:
        said = ", ".join(
            f"{key} {_value(theirs, key)!r} (the base: {_value(ours, key)!r})" for key in differing
        )
        raise InputError(
            f"{expert / FILE}: found {said}, expected what {base / FILE} has: a merge is given its pictures "
            "by one processor, and this expert was trained by another"
        )
    return []


def _value(processor: Any, key: str) -> object:  # noqa: ANN401 - the library's classes share no typed call
    found: Any = getattr(processor, key, None)
    if isinstance(found, tuple):
        return list(found)
    if isinstance(found, Mapping):
        return {part: number for part, number in found.items() if number is not None}
    return found
