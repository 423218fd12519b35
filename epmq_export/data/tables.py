"""Tables of samples of any kind, read by their columns from .parquet files and data sets of the Hugging Face
hub.
"""

import hashlib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from epmq_export.data.labels import distinct
from epmq_export.errors import InputError, MissingRuntime, did_you_mean, first_line

INSTALL = "pip install 'epmq-export[datasets]'"


@dataclass(frozen=True)
class Columns:
    """The columns of a table, by what they hold."""

    samples: Sequence[str]
    labels: str | None
    names: Sequence[str] | None
    """The names of the classes, where the table numbers them and names them."""

    @property
    def used(self) -> list[str]:
        """Return the columns that are read, each once."""
        return list(dict.fromkeys([*self.samples, *([] if self.labels is None else [self.labels])]))


@dataclass(frozen=True)
class Rows:
    """Some rows of a table, all from one place."""

    place: str
    """The place that messages name."""

    table: Any
    """A pyarrow.Table. That library has no types."""

    def column(self, name: str) -> Any:  # noqa: ANN401
        """Return a column as pyarrow has it."""
        return self.table.column(name)

    def values(self, name: str) -> list[Any]:
        """Return the values of a column as Python has them.

        Raises InputError for texts that are not in UTF-8.
        """
        try:
            found: list[Any] = self.column(name).to_pylist()
        except UnicodeDecodeError:
            raise InputError(
                f"{self.place}: found texts in the column {name} that are not in UTF-8"
            ) from None
        return found


@dataclass(frozen=True)
class Table:
    """All rows that are read together."""

    parts: Sequence[Rows]
    columns: Columns

    @property
    def place(self) -> str:
        return self.parts[0].place


Choose = Callable[[Any, str], Columns]
"""A function that takes a schema and a place and returns the columns to read. It raises InputError where
there are none.
"""


def read_tables(paths: Sequence[Path], choose: Choose) -> Table:
    """Return the rows of one file, or of the files of one split in their order.

    Raises InputError for a file that is no table, MissingRuntime without pyarrow.
    """
    read = [_read(path, choose) for path in paths]
    (first, columns), *others = read
    for part, found in others:
        if found != columns:
            raise InputError(
                f"{part.place}: found other columns or classes than in {first.place}, expected the same "
                "in all files of a split"
            )
    return Table([part for part, _ in read], columns)


def chosen(schema: Any, choose: Choose, place: str) -> Columns:  # noqa: ANN401
    """Return the columns that are chosen.

    Raises InputError, too, for a table whose columns cannot be told apart.
    """
    if twice := next((name for index, name in enumerate(schema.names) if name in schema.names[:index]), None):
        raise InputError(f"{place}: found the column {twice!r} twice, expected distinct names")
    return choose(schema, place)


def choose_labels(
    schema: Any,  # noqa: ANN401 - of pyarrow, which has no types
    asked: str | None,
    place: str,
) -> tuple[str | None, list[str] | None]:
    """Return the column of the labels (by default `label`, or the only one of numbered classes, or None) and
    the names of its classes where it has them.
    """
    features = _features(schema)
    classes = [
        name
        for name, feature in features.items()
        if feature.get("_type") == "ClassLabel" and name in schema.names
    ]
    if asked is not None and asked not in schema.names:
        raise InputError(
            f"{place}: found no column {asked!r}, expected one of "
            f"{_told(schema.names)}{did_you_mean(asked, schema.names)}"
        )
    labels = asked or ("label" if "label" in schema.names else classes[0] if len(classes) == 1 else None)
    names = features.get(labels, {}).get("names") if labels in classes else None
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise InputError(f"{place}: found names of the classes of {labels} that are no list of texts")
    return labels, None if names is None else distinct(names, f"{place}: {labels}")


def require_column(
    schema: Any,  # noqa: ANN401 - of pyarrow, which has no types
    name: str,
    fitting: Sequence[str],
    expected: str,
    place: str,
) -> None:
    """Raise InputError where `name` is not one of the fitting columns."""
    if name not in fitting:
        found = (
            f"the column {name} of {schema.field(name).type}"
            if name in schema.names
            else f"no column {name!r}, but {_told(schema.names)}"
        )
        raise InputError(
            f"{place}: found {found[:300]}, "
            f"{expected}{did_you_mean(name, schema.names) if name not in schema.names else ''}"
        )


def is_text(kind: Any) -> bool:  # noqa: ANN401
    """Return whether a pyarrow type is one of texts."""
    import pyarrow.types as kinds

    return str(kind.value_type if kinds.is_dictionary(kind) else kind) in (
        "string",
        "large_string",
        "string_view",
    )


def _read(path: Path, choose: Choose) -> tuple[Rows, Columns]:
    try:
        from pyarrow import ArrowException
        from pyarrow.parquet import ParquetFile
    except ImportError as error:
        raise MissingRuntime(
            f"{path}: a .parquet file needs the package pyarrow ({error}): {INSTALL}"
        ) from None
    try:
        with ParquetFile(path) as file:
            columns = chosen(file.schema_arrow, choose, str(path))
            return Rows(str(path), file.read(columns=columns.used)), columns
    except (ArrowException, OSError, UnicodeDecodeError) as error:  # The last is of names of columns.
        raise InputError(f"{path}: not readable as .parquet ({first_line(error)})") from None


def _features(schema: Any) -> dict[str, dict[str, Any]]:  # noqa: ANN401
    """Return what the library `datasets` has written about the columns, or nothing where another program has
    written the file.
    """
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        return {name: feature for name, feature in features.items() if isinstance(feature, dict)}
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError):
        return {}


def _told(names: Sequence[str]) -> str:
    return ", ".join([*names][:12]) + (", ..." if len(names) > 12 else "")


def read_dataset(name: str, config: str | None, split: str, choose: Choose) -> Table:
    """Return the rows of a split of `name`, which is an id, perhaps with `@revision`. The library decodes no
    image, because images are decoded in one place alone.

    Raises InputError, with the library's reason, where it finds no such data set, and MissingRuntime without
    the library.
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
    library: Any = datasets  # The library has no type hints.
    try:
        found = library.load_dataset(identity, config, split=split, revision=revision or None)
        schema = found.features.arrow_schema
    except Exception as error:  # The library raises whatever the network and its parsers raise.
        raise InputError(f"{place}: cannot be loaded ({first_line(error)})") from None
    columns = chosen(schema, choose, place)
    return Table([Rows(place, found.select_columns(columns.used).with_format("arrow")[:])], columns)


def digest_of(samples: Iterable[str]) -> str:
    """Return the hex SHA-256 of lines about the samples and their labels, in their order."""
    digest = hashlib.sha256()
    for sample in samples:
        digest.update(f"{sample}\n".encode())
    return digest.hexdigest()
