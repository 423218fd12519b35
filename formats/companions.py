"""The files beside a packed checkpoint that say how its model is read, as a format takes them."""

from pathlib import Path

from epmq_export.models.family import Family, heads_of
from epmq_export.tensors.companions import companions
from epmq_export.tensors.modules import is_of_sentences


def files_of(source: Path, family: Family) -> dict[str, bytes]:
    """Return the config, tokenizer and pooling files of a directory, by name.

    Of classifiers, sentence-transformers' own files are left out: they would promise an embedding, and the
    model was calibrated for its scores.
    """
    classifies = bool(heads_of(family))
    found = files_in(source)
    return {name: held for name, held in found.items() if not (classifies and is_of_sentences(name))}


def files_in(folder: Path) -> dict[str, bytes]:
    """Return the same files of any directory, all of them."""
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in companions(folder)}
