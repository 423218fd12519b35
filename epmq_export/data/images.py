"""Image data: folders by class, parquet with image structs, npz arrays, and data sets of the Hugging Face hub."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from epmq_export.data.sample import Picture, Pixels
from epmq_export.errors import InputError
from epmq_export.recipe import RecipeImages


@dataclass(frozen=True)
class Pictures:
    samples: Sequence[Picture]
    labels: Sequence[int] | None
    """Of each, an index into `names`, or what the data themselves count by."""

    names: Sequence[str] | None
    """Of the classes, where the data name them."""

    counted: bool = True
    """Whether the data themselves count their classes, so that a recipe's classes may stand for them in their order; not for folders."""

    data: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 by name, of what came from elsewhere than the user's files."""


def read_pictures(asked: RecipeImages) -> Pictures:
    """InputError, naming file and key, where there are none; MissingRuntime where a package is needed that is not installed."""
    assert asked.path is not None
    return _npz(asked.path, asked)


def _npz(path: Path, asked: RecipeImages) -> Pictures:
    with np.load(path, allow_pickle=False) as file:
        pixels: NDArray[np.uint8] = file[asked.images or "images"]
        key = asked.labels or "labels"
        labels = file[key].tolist() if key in file else None
        names = [str(name) for name in file["labels"]] if key != "labels" and "labels" in file else None
    samples = [
        Picture(f"{path}: {asked.images}[{i}]", hashlib.sha256(array.tobytes()).hexdigest(), partial(_rgb, array, f"{path}[{i}]"))
        for i, array in enumerate(pixels)
    ]
    return Pictures(samples, labels, names)


def _rgb(array: NDArray[np.uint8], place: str) -> Pixels:
    if array.dtype != np.uint8 or array.ndim not in (2, 3):
        raise InputError(f"{place}: found {array.dtype} of shape {list(array.shape)}, expected uint8 [height, width] or [height, width, 3]")
    return np.ascontiguousarray(np.broadcast_to(array[:, :, None], (*array.shape, 3)) if array.ndim == 2 else array)
