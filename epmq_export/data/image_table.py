"""Images in the columns of tables. The encoded images stay in memory."""

import hashlib
from functools import partial
from pathlib import Path
from typing import Any

from epmq_export.data.classes import UNLABELLED, by_name
from epmq_export.data.pictures import Pictures, decode
from epmq_export.data.table import Choose, Columns, Part, Table, choose_labels, is_text, require_column
from epmq_export.errors import InputError
from epmq_export.models.samples import Picture, Pixels


def image_columns(images: str | None, labels: str | None) -> Choose:
    """By name; by default `image`, or the only column of encoded images, and the labels as of any table."""

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
    """A picture for each row, with its label. With `linked`, a row without bytes may name a file, which is
    read for its digest and again when decoded.
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


def _pictures(part: Part, images: str, linked: bool) -> list[Picture]:
    read = partial(_bytes, part.column(images), linked)
    places = [f"{part.place}: row {row}" for row in range(len(part.rows))]
    return [
        Picture(place, hashlib.sha256(read(row)).hexdigest(), partial(_decoded, read, row, place))
        for row, place in enumerate(places)
    ]


def _labels(part: Part, name: str) -> list[int | str | None]:
    """Whole numbers or texts, None where a row has none; InputError for anything else."""
    import pyarrow.types as kinds

    kind = part.column(name).type
    if not (is_text(kind) or kinds.is_integer(kind.value_type if kinds.is_dictionary(kind) else kind)):
        raise InputError(
            f"{part.place}: found the column {name} of {str(kind)[:200]}, expected whole numbers or texts"
        )
    return part.values(name)


def _is_encoded(kind: Any) -> bool:  # noqa: ANN401
    import pyarrow.types as kinds

    if kinds.is_struct(kind):
        return any(
            kind.field(i).name == "bytes" and _is_encoded(kind.field(i).type) for i in range(kind.num_fields)
        )
    return bool(kinds.is_binary(kind) or kinds.is_large_binary(kind))


def _bytes(column: Any, linked: bool, row: int) -> bytes:  # noqa: ANN401
    """Empty where a row has none."""
    value = column[row].as_py()
    encoded = value.get("bytes") if isinstance(value, dict) else value
    if not encoded and linked and isinstance(value, dict) and value.get("path"):
        try:
            return Path(value["path"]).read_bytes()
        except OSError:  # told when it is decoded
            return b""
    return encoded or b""


def _decoded(read: Any, row: int, place: str) -> Pixels:  # noqa: ANN401
    return decode(read(row), place)
