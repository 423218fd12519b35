"""Images in the columns of .parquet files, as data sets of the Hugging Face hub have them. The encoded images stay in memory."""

import hashlib
import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from epmq_export.data.pictures import SPLITS, UNLABELLED, Pictures, by_name, decode, distinct
from epmq_export.data.sample import Picture, Pixels
from epmq_export.errors import InputError, MissingRuntime
from epmq_export.nearest import did_you_mean

INSTALL = "pip install 'epmq-export[datasets]'"
_SHARD = re.compile(r"(?P<split>.+?)-\d{5}-of-\d{5}(-[0-9a-f]+)?")


@dataclass(frozen=True)
class Columns:
    """Which columns of a table hold what."""

    images: str
    labels: str | None
    names: Sequence[str] | None
    """Of the classes, where the table counts them and names them."""


def read_tables(paths: Sequence[Path], images: str | None, labels: str | None) -> Pictures:
    """The rows of one file, or of the files of one split in their order. InputError where they hold no images; MissingRuntime without pyarrow."""
    parts = []
    for path in paths:
        table, columns = _read(path, images, labels)
        parts.append((path, table, columns))
    (first, _, columns), *others = parts
    for path, _, found in others:
        if found != columns:
            raise InputError(f"{path}: found other columns or classes than in {first}, expected the same in all files of a split")
    samples = [sample for path, table, _ in parts for sample in pictures_in(table.column(columns.images), str(path))]
    if not samples:
        raise InputError(f"{first}: found no row, expected at least one image")
    if columns.labels is None:
        return Pictures(samples, None, None)
    values = [value for path, table, _ in parts for value in labels_in(table.column(columns.labels), columns.labels, str(path))]
    return labelled(samples, values, columns, str(first))


def splits_of(paths: Iterable[Path], directory: Path) -> dict[str | None, list[Path]]:
    """Files by split: what stands before `-00000-of-00002` in the name; else the whole name or the folder's, where it is a split's."""
    found: dict[str | None, list[Path]] = {}
    for path in paths:
        shard = _SHARD.fullmatch(path.stem)
        usual = next((name for name in (path.stem, path.parent.name if path.parent != directory else "") if name in SPLITS), None)
        found.setdefault(shard["split"] if shard else usual, []).append(path)
    return found


def choose_columns(schema: Any, images: str | None, labels: str | None, place: str) -> Columns:  # noqa: ANN401 - pyarrow has no types
    """By name; by default `image`, or the only column of encoded images, and `label`, or the only column of counted classes, or none."""
    features = _features(schema)
    encoded = [name for name in schema.names if _is_encoded(schema.field(name).type)]
    if images is None:
        images = "image" if "image" in encoded or len(encoded) != 1 else encoded[0]
    if images not in encoded:
        found = f"the column {images} of {schema.field(images).type}" if images in schema.names else f"no column {images!r}, but {_told(schema.names)}"
        near = did_you_mean(images, schema.names) if images not in schema.names else ""
        raise InputError(f"{place}: found {found[:300]}, expected encoded images: bytes, or a structure with bytes (the key images names the column){near}")
    classes = [name for name, feature in features.items() if feature.get("_type") == "ClassLabel" and name in schema.names]
    if labels is None:
        labels = "label" if "label" in schema.names else classes[0] if len(classes) == 1 else None
    elif labels not in schema.names:
        raise InputError(f"{place}: found no column {labels!r}, expected one of {_told(schema.names)}{did_you_mean(labels, schema.names)}")
    names = features.get(labels, {}).get("names") if labels in classes else None
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise InputError(f"{place}: found names of the classes of {labels} that are no list of texts")
    return Columns(images, labels, None if names is None else distinct(names, f"{place}: {labels}"))


def pictures_in(column: Any, place: str, *, linked: bool = False) -> list[Picture]:  # noqa: ANN401
    """A picture for each row. With `linked`, a row without bytes may name a file, which is read for its digest and again when decoded."""
    read = partial(_bytes, column, linked)
    return [Picture(f"{place}: row {i}", hashlib.sha256(read(i)).hexdigest(), partial(_decoded, read, i, f"{place}: row {i}")) for i in range(len(column))]


def labels_in(column: Any, name: str, place: str) -> list[int | None] | list[str | None]:  # noqa: ANN401
    """Whole numbers or texts, None where a row has none; InputError for anything else."""
    import pyarrow.types as kinds

    kind = column.type.value_type if kinds.is_dictionary(column.type) else column.type
    if not (kinds.is_integer(kind) or kinds.is_string(kind) or kinds.is_large_string(kind)):
        raise InputError(f"{place}: found the column {name} of {str(kind)[:200]}, expected whole numbers or texts")
    values: list[int | None] | list[str | None] = column.to_pylist()
    return values


def labelled(samples: Sequence[Picture], values: Sequence[int | str | None], columns: Columns, place: str) -> Pictures:
    """Pictures with their labels, which are numbers or names."""
    if any(isinstance(value, str) for value in values):
        if columns.names is not None:
            raise InputError(f"{place}: found texts in the column {columns.labels}, expected whole numbers, since its classes are counted")
        labels, names = by_name([None if value is None else str(value) for value in values])
        return Pictures(samples, labels, names, counted=False)
    numbers = [UNLABELLED if value is None else int(value) for value in values]
    return Pictures(samples, numbers, columns.names)


def _read(path: Path, images: str | None, labels: str | None) -> tuple[Any, Columns]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingRuntime(f"{path}: a .parquet file needs the package pyarrow ({error}): {INSTALL}") from None
    try:
        with ParquetFile(path) as file:
            columns = choose_columns(file.schema_arrow, images, labels, str(path))
            return file.read(columns=[columns.images, *([columns.labels] if columns.labels is not None else [])]), columns
    except (ArrowException, OSError) as error:
        reason = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise InputError(f"{path}: not readable as .parquet ({reason})") from None


def _features(schema: Any) -> dict[str, dict[str, Any]]:  # noqa: ANN401
    """What the library `datasets` has written of the columns; nothing where another has written the file."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _is_encoded(kind: Any) -> bool:  # noqa: ANN401
    import pyarrow.types as kinds

    if kinds.is_struct(kind):
        return any(kind.field(i).name == "bytes" and _is_encoded(kind.field(i).type) for i in range(kind.num_fields))
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


def _told(names: Sequence[str]) -> str:
    return ", ".join([*names][:12]) + (", ..." if len(names) > 12 else "")
