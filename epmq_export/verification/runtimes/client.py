"""What clients of a written folder have in common."""

from collections.abc import Sequence
from pathlib import Path

from epmq_export.errors import InputError
from epmq_export.models.samples import Picture, Sample, text_of
from epmq_export.tensors.directory import CONFIG


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


def texts_of(path: Path, samples: Sequence[Sample]) -> list[str]:
    """Return samples as texts. Raises InputError where there are none, and for pictures."""
    if not samples:
        raise InputError(f"{path}: no texts to run it on")
    if any(isinstance(sample, Picture) for sample in samples):
        raise InputError(f"{path}: found pictures, expected texts")
    return [text_of(sample) for sample in samples]
