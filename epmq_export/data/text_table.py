"""Texts in the columns of tables."""

from collections.abc import Sequence
from typing import Any

from epmq_export.data.table import Choose, Columns, Table, choose_labels, is_text, require_column
from epmq_export.data.text_rows import Text, Texts, checked
from epmq_export.errors import InputError


def text_columns(texts: Sequence[str] | None, labels: str | None) -> Choose:
    """By name; by default `text`, or the only column of texts that are no labels, and the labels as of any
    table.
    """

    def choose(schema: Any, place: str) -> Columns:  # noqa: ANN401 - pyarrow has no types
        found, names = choose_labels(schema, labels, place)
        fitting = [name for name in schema.names if is_text(schema.field(name).type)]
        others = [name for name in fitting if name != found]
        columns = texts or ["text" if "text" in others or len(others) != 1 else others[0]]
        for name in columns:
            require_column(
                schema, name, fitting, "expected a column of texts (the key texts names it)", place
            )
        return Columns(columns, found, names)

    return choose


def texts_in(table: Table) -> Texts:
    """A sample for each row, with its label. InputError for a row without a text."""
    columns, labels = table.columns.samples, table.columns.labels
    samples = []
    for part in table.parts:
        for row, values in enumerate(zip(*(part.values(name) for name in columns), strict=True)):
            place = f"{part.place}: row {row}"
            samples.append(
                Text(
                    place,
                    {name: checked(value, place, name) for name, value in zip(columns, values, strict=True)},
                )
            )
    if not samples:
        raise InputError(f"{table.place}: found no row, expected at least one text")
    return Texts(
        samples,
        None if labels is None else [label for part in table.parts for label in part.values(labels)],
        table.columns.names,
    )
