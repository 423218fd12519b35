"""Images in folders by class, and what a path of images may be."""

from pathlib import Path

import pytest
from PIL import Image

from epmq_export.errors import InputError
from tests.data.read_images import named, read
from tests.tiny.image_files import encoded, folders, png, put, two_colours

TWO = Image.fromarray(two_colours())


def test_folders_are_classes(tmp_path: Path) -> None:
    folders(tmp_path, dog=2, cat=1, cat__siamese=1)
    put(tmp_path / "dog" / "notes.txt", b"not an image")
    for hidden in (".cache/1.png", "__MACOSX/dog/._1.png", "dog/._0.png"):
        put(tmp_path / hidden, b"what a system leaves")
    put(tmp_path / "dog" / "B.JPEG", encoded(TWO, "JPEG"))
    found = read(tmp_path)
    assert [Path(picture.place).relative_to(tmp_path).as_posix() for picture in found.samples] == [
        "cat/0.png",
        "cat/siamese/0.png",
        "dog/0.png",
        "dog/1.png",
        "dog/B.JPEG",
    ]
    assert (found.names, found.labels, found.counted, found.data) == (
        ["cat", "dog"],
        [0, 0, 1, 1, 1],
        False,
        {},
    )
    assert len({picture.digest for picture in found.samples}) == 5
    assert found.samples[0].pixels().shape == (3, 5, 3)


def test_images_without_folders_have_no_labels(tmp_path: Path) -> None:
    for name in ("b.png", "a.png"):
        put(tmp_path / name, png(len(name)))
    found = read(tmp_path)
    assert [Path(picture.place).name for picture in found.samples] == ["a.png", "b.png"]
    assert (found.labels, found.names) == (None, None)
    put(tmp_path / "cat" / "c.png", png(3))
    assert read(tmp_path).labels == [-1, -1, 0]


def test_splits_are_folders(tmp_path: Path) -> None:
    folders(tmp_path, train__cat=2, train__dog=1, test__cat=1, test__dog=1)
    assert named(read(tmp_path)) == named(read(tmp_path, "test", split="train")) == ["cat", "cat", "dog"]
    assert named(read(tmp_path, "test")) == named(read(tmp_path, split="test")) == ["cat", "dog"]
    message = (
        r": found the folders test, train and no split 'tset', expected the key split to name one, "
        r"did you mean 'test'\?$"
    )
    with pytest.raises(InputError, match=message):
        read(tmp_path, split="tset")
    with pytest.raises(InputError, match=r": found the folders test, train and no split 'val', expected"):
        read(tmp_path, "val")


def test_a_folder_called_test_among_classes_is_a_class(tmp_path: Path) -> None:
    folders(tmp_path, test=1, cat=1)
    assert named(read(tmp_path)) == ["cat", "test"]
    found = read(tmp_path, split="cat")  # but a split that is asked for is taken
    assert (len(found.samples), found.labels) == (1, None)


def test_a_folder_without_images_is_refused(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r": found no file, expected images \(\.bmp, .*\.webp\) or \.parquet files$"
    ):
        read(tmp_path)
    put(tmp_path / "a.txt", b"x")
    put(tmp_path / "b" / "README", b"x")
    with pytest.raises(InputError, match=r": found 2 files \(\.txt, README\), expected images"):
        read(tmp_path)
    put(tmp_path / "a.png", png(1))
    with pytest.raises(
        InputError, match=r": found image files, which have no 'x', expected the key labels left out$"
    ):
        read(tmp_path, labels="x")
    put(tmp_path / "a.parquet", b"x")
    with pytest.raises(
        InputError,
        match=r": found images and \.parquet files \(a\.png, a\.parquet\), expected one of the two$",
    ):
        read(tmp_path)


def test_links(tmp_path: Path) -> None:
    folders(tmp_path / "real", cat=1)
    (tmp_path / "all").mkdir()
    (tmp_path / "all" / "0.png").symlink_to(tmp_path / "real" / "cat" / "0.png")
    assert len(read(tmp_path / "all").samples) == 1
    (tmp_path / "all" / "cat").symlink_to(tmp_path / "real" / "cat")
    with pytest.raises(
        InputError, match=r"all/cat: found a link to a directory, expected the directory itself$"
    ):
        read(tmp_path / "all")


def test_a_file_that_goes_away_is_one_sentence(tmp_path: Path) -> None:
    path = put(tmp_path / "a.png", png(1))
    (picture,) = read(tmp_path).samples
    path.unlink()
    with pytest.raises(InputError, match=r"a\.png: not readable \(No such file or directory\)$"):
        picture.pixels()


@pytest.mark.parametrize("name", ["a.png", "a.tsv", "a"])
def test_other_files_are_refused(tmp_path: Path, name: str) -> None:
    path = put(tmp_path / name, png(1))
    with pytest.raises(
        InputError, match=r"expected a directory of images or a file that ends in \.parquet or \.npz$"
    ):
        read(path)
