"""Text data that a recipe asks for: line files, .parquet files, and data sets of the Hugging Face hub."""

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from epmq_export.data.conversations import COLUMN as CONVERSATIONS
from epmq_export.data.conversations import conversation, is_conversations
from epmq_export.data.folder import files_in, of_split, tables_of, told
from epmq_export.data.request import DataRequest
from epmq_export.data.tables import (
    Choose,
    Columns,
    Table,
    choose_labels,
    digest_of,
    is_text,
    read_dataset,
    read_tables,
    require_column,
)
from epmq_export.data.text_lines import read_lines
from epmq_export.data.text_rows import Text, Texts, checked
from epmq_export.errors import InputError


def read_texts(asked: DataRequest, split: str = "train") -> Texts:
    """Return the texts that are asked for, with their labels.

    `split` is the one that is read where none is named and the data have several. Raises InputError, naming
    file and key, where there are no texts. Raises MissingRuntime where a package is needed that is not
    installed.
    """
    columns = text_columns(asked.texts, asked.labels)
    if asked.path is None:
        assert asked.dataset is not None
        table = read_dataset(asked.dataset, asked.config, asked.split or split, columns)
        found = texts_in(table)
        labels = found.labels or [None] * len(found.samples)
        rows = ([*text.content, label] for text, label in zip(found.samples, labels, strict=True))
        return replace(found, data={table.place: digest_of(json.dumps(row, default=str) for row in rows)})
    path = asked.path
    if path.is_dir():
        files = files_in(path)
        if not (tables := tables_of(files)):
            raise InputError(
                f"{path}: found {told(files)}, expected .parquet files with texts, or the path of a file "
                "of texts"
            )
        return texts_in(read_tables(of_split(path, tables, asked.split, split), columns))
    if path.suffix.lower() == ".parquet":
        return texts_in(read_tables([path], columns))
    return read_lines(path, asked.texts, asked.labels)


def text_columns(texts: Sequence[str] | None, labels: str | None) -> Choose:
    """Return a function that chooses a table's columns: those that are named, or by default `text`, the only
    column of texts that are no labels, or `messages`, and the labels as in any table.
    """

    def choose(schema: Any, place: str) -> Columns:  # noqa: ANN401 - pyarrow has no types
        found, names = choose_labels(schema, labels, place)
        fitting = [name for name in schema.names if is_text(schema.field(name).type)]
        others = [name for name in fitting if name != found]
        chats = [name for name in schema.names if is_conversations(schema.field(name).type)]
        columns = texts or _by_default(others, chats)
        fitting += chats if len(columns) == 1 else []
        for name in columns:
            require_column(
                schema, name, fitting, "expected a column of texts (the key texts names it)", place
            )
        return Columns(columns, found, names)

    return choose


def _by_default(texts: Sequence[str], chats: Sequence[str]) -> list[str]:
    """Return the column that is read where none is named, of those of texts and those of conversations."""
    if "text" not in texts and len(texts) != 1 and CONVERSATIONS in chats:
        return [CONVERSATIONS]
    return ["text" if "text" in texts or len(texts) != 1 else texts[0]]


def texts_in(table: Table) -> Texts:
    """Return a sample for each row, with its label. Raises InputError for a row without a text."""
    columns, labels = table.columns.samples, table.columns.labels
    samples = []
    for part in table.parts:
        for row, values in enumerate(zip(*(part.values(name) for name in columns), strict=True)):
            place = f"{part.place}: row {row}"
            if isinstance(values[0], list):
                samples.append(conversation(values[0], place, columns[0]))
                continue
            named = zip(columns, values, strict=True)
            samples.append(Text(place, {name: checked(value, place, name) for name, value in named}))
    if not samples:
        raise InputError(f"{table.place}: found no row, expected at least one text")
    return Texts(
        samples,
        None if labels is None else [label for part in table.parts for label in part.values(labels)],
        table.columns.names,
    )
