"""Image data, from what a recipe asks for: folders by class, .parquet and .npz files, and data sets of the
Hugging Face hub.
"""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from epmq_export.data.folder import files_in, of_split, tables_of, told
from epmq_export.data.hub import digest_of, read_dataset
from epmq_export.data.image_arrays import read_arrays
from epmq_export.data.image_folder import is_image, read_folder
from epmq_export.data.image_table import image_columns, pictures_in
from epmq_export.data.pictures import ENDINGS, Pictures
from epmq_export.data.table import read_tables
from epmq_export.errors import InputError
from epmq_export.recipe.task import RecipeData

FILES = (".parquet", ".npz")
"""Endings of the files that hold many images."""


def read_pictures(asked: RecipeData, split: str = "train") -> Pictures:
    """`split` is the one that is read where the recipe names none and the data have several.

    InputError, naming file and key, where there are no images; MissingRuntime where a package is needed that
    is not installed. No image is decoded yet.
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


def _directory(directory: Path, asked: RecipeData, split: str) -> Pictures:
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
