"""Images of data sets of the Hugging Face hub, by the library `datasets`, which downloads them into its cache."""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from epmq_export.data.image_table import INSTALL, choose_columns, labelled, labels_in, pictures_in
from epmq_export.data.pictures import Pictures
from epmq_export.data.sample import Picture
from epmq_export.errors import InputError, MissingRuntime


def read_dataset(name: str, config: str | None, split: str, images: str | None, labels: str | None) -> Pictures:
    """The rows of a split of `name`, which is an id, perhaps with `@revision`. The library decodes nothing: what is decoded is decoded in one place.

    InputError, with the library's reason, where it finds no such data set; MissingRuntime without the library.
    """
    place = " ".join(["dataset", name, *([config] if config else []), split])
    identity, _, revision = name.partition("@")
    if Path(identity).is_dir():
        raise InputError(f"{place}: found a directory {identity!r} where the command runs, which the library would take for it, expected none of that name")
    try:
        import datasets
    except ImportError as error:
        raise MissingRuntime(f"{place}: a data set of the hub needs the package datasets ({error}): {INSTALL}") from None
    library: Any = datasets  # without types
    try:
        found = library.load_dataset(identity, config, split=split, revision=revision or None)
        schema = found.features.arrow_schema
    except Exception as error:  # the library raises whatever the network and its parsers raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(f"{place}: cannot be loaded ({reason})") from None
    columns = choose_columns(schema, images, labels, place)
    used = [columns.images, *([columns.labels] if columns.labels is not None else [])]
    table = found.select_columns(used).with_format("arrow")[:]
    samples = pictures_in(table.column(columns.images), place, linked=True)
    if not samples:
        raise InputError(f"{place}: found no row, expected at least one image")
    if columns.labels is None:
        pictures = Pictures(samples, None, None)
    else:
        pictures = labelled(samples, labels_in(table.column(columns.labels), columns.labels, place), columns, place)
    return replace(pictures, data={place: _digest(samples, pictures.labels)})


def _digest(samples: Sequence[Picture], labels: Sequence[int] | None) -> str:
    """Hex SHA-256 of the samples' digests and labels, in their order."""
    digest = hashlib.sha256()
    for index, sample in enumerate(samples):
        digest.update(f"{sample.digest} {'' if labels is None else labels[index]}\n".encode())
    return digest.hexdigest()
