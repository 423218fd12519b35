"""Image data that a recipe asks for: folders by class, .parquet and .npz files, and data sets of the Hugging
Face hub.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from epmq_export.data.folder import SPLITS, files_in, of_split, tables_of, told
from epmq_export.data.image_arrays import read_arrays
from epmq_export.data.labels import UNLABELLED, by_name
from epmq_export.data.pictures import ENDINGS, Pictures, decode, of_file
from epmq_export.data.request import DataRequest
from epmq_export.data.tables import (
    Choose,
    Columns,
    Rows,
    Table,
    choose_labels,
    digest_of,
    is_text,
    read_dataset,
    read_tables,
    require_column,
)
from epmq_export.errors import InputError, did_you_mean
from epmq_export.models.samples import Picture, Pixels

FILES = (".parquet", ".npz")
"""Endings of the files that hold many images."""


def read_pictures(asked: DataRequest, split: str = "train") -> Pictures:
    """Return the images that are asked for, none of them decoded yet.

    `split` is the one that is read where none is named and the data have several. Raises InputError, naming
    file and key, where there are no images. Raises MissingRuntime where a package is needed that is not
    installed.
    """
    columns = image_columns(asked.images, asked.labels)
    if asked.path is None:
        assert asked.dataset is not None
        table = read_dataset(asked.dataset, asked.config, asked.split or split, columns)
        found = pictures_in(table, linked=True)
        labels: Sequence[object] = found.labels or [""] * len(found.samples)
        return replace(
            found,
            data={
                table.place: digest_of(
                    f"{picture.digest} {label}" for picture, label in zip(found.samples, labels, strict=True)
                )
            },
        )
    path, ending = asked.path, asked.path.suffix.lower()
    if path.is_dir():
        return _directory(path, asked, split)
    if ending == ".parquet":
        return pictures_in(read_tables([path], columns))
    if ending == ".npz":
        return read_arrays(path, asked.images, asked.labels)
    raise InputError(
        f"{path}: found the ending {ending or 'of no kind'!r}, expected a directory of images or a file "
        f"that ends in {' or '.join(FILES)}"
    )


def _directory(directory: Path, asked: DataRequest, split: str) -> Pictures:
    files = files_in(directory)
    images, tables = [path for path in files if is_image(path)], tables_of(files)
    if images and tables:
        raise InputError(
            f"{directory}: found images and .parquet files ({images[0].name}, {tables[0].name}), expected "
            "one of the two"
        )
    if tables:
        return pictures_in(
            read_tables(
                of_split(directory, tables, asked.split, split), image_columns(asked.images, asked.labels)
            )
        )
    if not images:
        raise InputError(
            f"{directory}: found {told(files)}, expected images ({', '.join(sorted(ENDINGS))}) or "
            ".parquet files"
        )
    for key, value in (("images", asked.images), ("labels", asked.labels)):
        if value is not None:
            raise InputError(
                f"{directory}: found image files, which have no {value!r}, expected the key {key} left out"
            )
    return read_folder(directory, images, asked.split, split)


def is_image(path: Path) -> bool:
    """Return whether the ending of a file is that of an image."""
    return path.suffix.lower() in ENDINGS


def read_folder(directory: Path, images: list[Path], split: str | None, default: str) -> Pictures:
    """Return the images of a directory. Their classes are the folders right below it, or below the folder of
    the split. Without such folders they have no labels.

    A directory that has folders of splits and nothing else gives those of `split`, or of `default`. Raises
    InputError where there is none of that name.
    """
    inside = [path.relative_to(directory).parts for path in images]
    tops = sorted({parts[0] for parts in inside if len(parts) > 1})
    splits = tops if tops and set(tops) <= SPLITS and all(len(parts) > 1 for parts in inside) else []
    if split is not None or splits:
        asked = split or default
        if asked not in tops:
            raise InputError(
                f"{directory}: found the folders {', '.join(tops) or 'of nothing'} and no split {asked!r}, "
                "expected the key split to name one"
                f"{did_you_mean(asked, tops)}"
            )
        images = [
            path for path, parts in zip(images, inside, strict=True) if parts[0] == asked and len(parts) > 1
        ]
        inside = [path.relative_to(directory / asked).parts for path in images]
    names = sorted({parts[0] for parts in inside if len(parts) > 1})
    order = {name: index for index, name in enumerate(names)}
    labels = [order[parts[0]] if len(parts) > 1 else UNLABELLED for parts in inside] if names else None
    return Pictures([of_file(path) for path in images], labels, names or None, counted=False)


def image_columns(images: str | None, labels: str | None) -> Choose:
    """Return a function that chooses a table's columns: those that are named, or by default `image` or the
    only column of encoded images, and the labels as in any table.
    """

    def choose(schema: Any, place: str) -> Columns:  # noqa: ANN401 - pyarrow has no types
        encoded = [name for name in schema.names if _is_encoded(schema.field(name).type)]
        column = images or ("image" if "image" in encoded or len(encoded) != 1 else encoded[0])
        require_column(
            schema,
            column,
            encoded,
            "expected encoded images: bytes, or a structure with bytes (the key images names the column)",
            place,
        )
        return Columns([column], *choose_labels(schema, labels, place))

    return choose


def pictures_in(table: Table, *, linked: bool = False) -> Pictures:
    """Return a picture for each row, with its label.

    With `linked`, a row without bytes may name a file, which is read for its digest and again when decoded.
    """
    (images,), labels, names = table.columns.samples, table.columns.labels, table.columns.names
    samples = [picture for part in table.parts for picture in _pictures(part, images, linked)]
    if not samples:
        raise InputError(f"{table.place}: found no row, expected at least one image")
    if labels is None:
        return Pictures(samples, None, None)
    values = [value for part in table.parts for value in _labels(part, labels)]
    if any(isinstance(value, str) for value in values):
        if names is not None:
            raise InputError(
                f"{table.place}: found texts in the column {labels}, expected whole numbers, since its "
                "classes are counted"
            )
        return Pictures(
            samples, *by_name([None if value is None else str(value) for value in values]), counted=False
        )
    return Pictures(samples, [UNLABELLED if value is None else int(value) for value in values], names)


def _pictures(part: Rows, images: str, linked: bool) -> list[Picture]:
    read = partial(_bytes, part.column(images), linked)
    places = [f"{part.place}: row {row}" for row in range(len(part.table))]
    return [
        Picture(place, hashlib.sha256(read(row)).hexdigest(), partial(_decoded, read, row, place))
        for row, place in enumerate(places)
    ]


def _labels(part: Rows, name: str) -> list[int | str | None]:
    """Return whole numbers or texts, None where a row has none. Raises InputError for anything else."""
    import pyarrow.types as kinds

    kind = part.column(name).type
    if not (is_text(kind) or kinds.is_integer(kind.value_type if kinds.is_dictionary(kind) else kind)):
        raise InputError(
            f"{part.place}: found the column {name} of {str(kind)[:200]}, expected whole numbers or texts"
        )
    return part.values(name)


def _is_encoded(kind: Any) -> bool:  # noqa: ANN401
    """Return whether a column of this type holds encoded images."""
    import pyarrow.types as kinds

    if kinds.is_struct(kind):
        return any(
            kind.field(i).name == "bytes" and _is_encoded(kind.field(i).type) for i in range(kind.num_fields)
        )
    return bool(kinds.is_binary(kind) or kinds.is_large_binary(kind))


def _bytes(column: Any, linked: bool, row: int) -> bytes:  # noqa: ANN401
    """Return the encoded image of a row, or empty bytes where it has none."""
    value = column[row].as_py()
    encoded = value.get("bytes") if isinstance(value, dict) else value
    if not encoded and linked and isinstance(value, dict) and value.get("path"):
        try:
            return Path(value["path"]).read_bytes()
        except OSError:  # The missing bytes are reported when the image is decoded.
            return b""
    return encoded or b""


def _decoded(read: Any, row: int, place: str) -> Pixels:  # noqa: ANN401
    return decode(read(row), place)
