"""Text data, from what a recipe asks for: line files, .parquet files, and data sets of the Hugging Face
hub.
"""

import json
from dataclasses import replace

from epmq_export.data.folder import files_in, of_split, tables_of, told
from epmq_export.data.hub import digest_of, read_dataset
from epmq_export.data.table import read_tables
from epmq_export.data.text_lines import read_lines
from epmq_export.data.text_rows import Texts
from epmq_export.data.text_table import text_columns, texts_in
from epmq_export.errors import InputError
from epmq_export.recipe.task import RecipeData


def read_texts(asked: RecipeData, split: str = "train") -> Texts:
    """`split` is the one that is read where the recipe names none and the data have several.

    InputError, naming file and key, where there are no texts; MissingRuntime where a package is needed that
    is not installed.
    """
    columns = text_columns(asked.texts, asked.labels)
    if asked.path is None:
        assert asked.dataset is not None
        table = read_dataset(asked.dataset, asked.config, asked.split or split, columns)
        found = texts_in(table)
        labels = found.labels or [None] * len(found.samples)
        rows = ([*text.values.values(), label] for text, label in zip(found.samples, labels, strict=True))
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
