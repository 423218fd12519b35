"""What clients of a written folder have in common."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from epmq_export.errors import InputError
from epmq_export.models.samples import Picture, Sample, as_json, text_of
from epmq_export.tensors.directory import CONFIG
from epmq_export.tensors.modules import MODULES


def folder_of(path: Path) -> Path:
    """Return the folder that a client is given: the one with the config, beside a model or one above it.

    Raises InputError where there is no model, or no config.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file")
    for folder in (path.parent, path.parent.parent):
        if (folder / CONFIG).is_file():
            return folder
    raise InputError(f"{path}: no {CONFIG} beside it, nor beside its folder")


def is_sentence_encoder(folder: Path) -> bool:
    """Return whether a folder has the modules of sentence-transformers."""
    return (folder / MODULES).is_file()


def texts_of(path: Path, samples: Sequence[Sample]) -> list[str]:
    """Return samples as texts. Raises InputError where there are none, and for pictures."""
    if not samples:
        raise InputError(f"{path}: no texts to run it on")
    if any(isinstance(sample, Picture) for sample in samples):
        raise InputError(f"{path}: found pictures, expected texts")
    return [text_of(sample) for sample in samples]


def spoken_of(path: Path, samples: Sequence[Sample]) -> list[Any]:
    """Return the samples of a language model as JSON. Raises InputError where there are none, and for
    pictures.
    """
    if not samples:
        raise InputError(f"{path}: no texts to run it on")
    return [as_json(sample) for sample in samples]
