"""Data sets of the Hugging Face hub, by the library `datasets`, which downloads them into its cache."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from epmq_export.data.table import INSTALL, Choose, Part, Table, chosen
from epmq_export.errors import InputError, MissingRuntime


def read_dataset(name: str, config: str | None, split: str, choose: Choose) -> Table:
    """The rows of a split of `name`, which is an id, perhaps with `@revision`. The library decodes nothing:
    what is decoded is decoded in one place.

    InputError, with the library's reason, where it finds no such data set; MissingRuntime without the
    library.
    """
    place = " ".join(["dataset", name, *([config] if config else []), split])
    identity, _, revision = name.partition("@")
    if Path(identity).is_dir():
        raise InputError(
            f"{place}: found a directory {identity!r} where the command runs, which the library would "
            "take for it, expected none of that name"
        )
    try:
        import datasets
    except ImportError as error:
        raise MissingRuntime(
            f"{place}: a data set of the hub needs the package datasets ({error}): {INSTALL}"
        ) from None
    library: Any = datasets  # without types
    try:
        found = library.load_dataset(identity, config, split=split, revision=revision or None)
        schema = found.features.arrow_schema
    except Exception as error:  # the library raises whatever the network and its parsers raise
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(f"{place}: cannot be loaded ({reason})") from None
    columns = chosen(schema, choose, place)
    return Table([Part(place, found.select_columns(columns.used).with_format("arrow")[:])], columns)


def digest_of(samples: Iterable[str]) -> str:
    """Hex SHA-256 of what is said of the samples and their labels, in their order."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(f"{sample}\n".encode())
    return digest.hexdigest()
