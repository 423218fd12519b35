"""Image data, from what a recipe asks for: folders by class, .parquet and .npz files, and data sets of the Hugging Face hub."""

from pathlib import Path

from epmq_export.data.image_arrays import read_arrays
from epmq_export.data.image_folder import files_in, is_image, read_folder
from epmq_export.data.image_hub import read_dataset
from epmq_export.data.image_table import read_tables, splits_of
from epmq_export.data.pictures import ENDINGS, Pictures
from epmq_export.errors import InputError
from epmq_export.nearest import did_you_mean
from epmq_export.recipe import RecipeImages

FILES = (".parquet", ".npz")
"""Endings of the files that hold many images."""


def read_pictures(asked: RecipeImages, split: str = "train") -> Pictures:
    """`split` is the one that is read where the recipe names none and the data have several.

    InputError, naming file and key, where there are no images; MissingRuntime where a package is needed that is not installed. No image is
    decoded yet.
    """
    if asked.path is None:
        assert asked.dataset is not None
        return read_dataset(asked.dataset, asked.config, asked.split or split, asked.images, asked.labels)
    path, ending = asked.path, asked.path.suffix.lower()
    if path.is_dir():
        return _directory(path, asked, split)
    if ending == ".parquet":
        return read_tables([path], asked.images, asked.labels)
    if ending == ".npz":
        return read_arrays(path, asked.images, asked.labels)
    raise InputError(f"{path}: found the ending {ending or 'of no kind'!r}, expected a directory of images or a file that ends in {' or '.join(FILES)}")


def _directory(directory: Path, asked: RecipeImages, split: str) -> Pictures:
    files = files_in(directory)
    images, tables = [path for path in files if is_image(path)], [path for path in files if path.suffix.lower() == ".parquet"]
    if images and tables:
        raise InputError(f"{directory}: found images and .parquet files ({images[0].name}, {tables[0].name}), expected one of the two")
    if tables:
        return read_tables(_of_split(directory, tables, asked.split, split), asked.images, asked.labels)
    if not images:
        kinds = sorted({path.suffix.lower() or path.name for path in files})
        found = f"{len(files)} files ({', '.join(kinds[:6])}{', ...' if len(kinds) > 6 else ''})" if files else "no file"
        raise InputError(f"{directory}: found {found}, expected images ({', '.join(sorted(ENDINGS))}) or .parquet files")
    for key, value in (("images", asked.images), ("labels", asked.labels)):
        if value is not None:
            raise InputError(f"{directory}: found image files, which have no {value!r}, expected the key {key} left out")
    return read_folder(directory, images, asked.split, split)


def _of_split(directory: Path, tables: list[Path], asked: str | None, default: str) -> list[Path]:
    """The files of one split; all where none of them is of a split."""
    splits = splits_of(tables, directory)
    named = [name for name in splits if name is not None]
    if asked is None and not named:
        return tables
    chosen = splits.get(asked or default)
    if chosen is None:
        found = f"the splits {', '.join(named)}" if named else "no splits"
        raise InputError(
            f"{directory}: found {found} and not {asked or default!r}, expected the key split to name one of them{did_you_mean(asked or default, named)}"
        )
    if others := [path for path in chosen if path.parent != chosen[0].parent]:
        raise InputError(f"{directory}: found the split {asked or default!r} in {chosen[0].parent} and in {others[0].parent}, expected the path of one of them")
    return chosen
