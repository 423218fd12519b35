# ruff: noqa: E501 (tables: a mistake and its sentence a line)
"""Images are read from every kind of data, decoded in one way, and refused in one sentence."""

import builtins
import io
import json
import struct
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from epmq_export.data.images import read_pictures
from epmq_export.data.pictures import Pictures, decode
from epmq_export.data.request import DataRequest
from epmq_export.errors import InputError, MissingRuntime
from epmq_export.files import sha256
from tests.tiny.hub import Hub
from tests.tiny.image_files import BLUE, RED, encoded, folders, png, put, two_colours

TWO = Image.fromarray(two_colours())
GREY16 = Image.fromarray(np.array([[0, 256, 40000, 65535]], np.uint16))


def read(path: Path, default: str = "train", **keys: str) -> Pictures:
    """`keys` are those of the recipe; `default` is the split where they say none."""
    return read_pictures(DataRequest(path=path, **keys), default)


def named(pictures: Pictures) -> list[str]:
    assert pictures.labels is not None and pictures.names is not None
    return [pictures.names[label] for label in pictures.labels]


# Decoding.


def _bomb() -> bytes:
    """A PNG of a few bytes that says it is 30000 pixels wide and high."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", 30000, 30000, 8, 0, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(bytes(100)))
        + chunk(b"IEND", b"")
    )


def _turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned clockwise by a quarter
    return encoded(Image.fromarray(two_colours(32, 16)), "JPEG", exif=exif, quality=95, subsampling=0)


def test_what_is_rgb_stays_as_it_is() -> None:
    for kind in ("PNG", "BMP", "TIFF", "PPM", "GIF"):
        assert (decode(encoded(TWO, kind), "x") == two_colours()).all(), kind
    assert (decode(encoded(TWO, "WEBP", lossless=True), "x") == two_colours()).all()


@pytest.mark.parametrize("mode", ["P", "RGBA", "CMYK"])
def test_other_modes_become_rgb(mode: str) -> None:
    found = decode(encoded(TWO.convert(mode), "TIFF" if mode == "CMYK" else "PNG"), "x")
    assert found.dtype == np.uint8 and (found == two_colours()).all()


def test_grey_becomes_three_equal_channels() -> None:
    for mode in ("L", "LA", "1"):
        found = decode(encoded(Image.fromarray(np.array([[0, 255]], np.uint8)).convert(mode)), "x")
        assert found.tolist() == [[[0] * 3, [255] * 3]], mode
    for kind in ("PNG", "TIFF", "PPM"):
        # 255 of 65535 is as bright as 1 of 255: nothing is cut off, and nothing wraps.
        assert decode(encoded(GREY16, kind), "x")[0, :, 0].tolist() == [0, 1, 156, 255], kind


def test_transparency_is_dropped() -> None:
    clear = TWO.convert("RGBA")
    clear.putalpha(0)
    assert (decode(encoded(clear), "x") == two_colours()).all()
    palette = TWO.quantize(4)
    assert (decode(encoded(palette, transparency=bytes([0, 255, 255, 0])), "x") == two_colours()).all()


def test_a_jpeg_of_four_inks() -> None:
    found = decode(
        encoded(Image.fromarray(two_colours(32, 16)).convert("CMYK"), "JPEG", quality=95, subsampling=0), "x"
    )
    assert found.shape == (16, 32, 3)
    assert abs(found[8, 4].astype(int) - RED).max() < 8 and abs(found[8, 28].astype(int) - BLUE).max() < 8


def test_a_photograph_is_turned_as_its_camera_says() -> None:
    found = decode(_turned(), "x")
    assert found.shape == (32, 16, 3)  # red, which was left, is on top
    assert abs(found[4, 8].astype(int) - RED).max() < 8 and abs(found[28, 8].astype(int) - BLUE).max() < 8


def test_of_an_animation_the_first_frame_counts() -> None:
    other = Image.fromarray(two_colours()[:, ::-1])
    assert (decode(encoded(TWO, "GIF", save_all=True, append_images=[other]), "x") == two_colours()).all()


NOISE = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)), "JPEG")
FLOATS = encoded(Image.fromarray(np.zeros((2, 2), np.float32)), "TIFF")
BROKEN = [
    (b"", r"found no bytes, expected an image \(PNG, JPEG, WEBP, BMP, GIF, TIFF, PPM\)"),
    (b"just some text\n", r"found no image, expected an image \(PNG, JPEG, WEBP, BMP, GIF, TIFF, PPM\)"),
    (
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n",
        "found no image, .*",
    ),  # which would start Ghostscript
    (
        NOISE[: len(NOISE) // 2],
        r"found an image that cannot be decoded \(image file is truncated.*\), expected a whole one",
    ),
    (png(1)[:-30], r"found an image that cannot be decoded \(.*\), expected a whole one"),
    (
        _bomb(),
        r"found an image that cannot be decoded \(Image size \(900000000 pixels\) exceeds limit .*\), expected a whole one",
    ),
    (FLOATS, r"found an image that cannot be decoded \(pixels that are floats\), expected a whole one"),
    (
        encoded(Image.fromarray(np.full((2, 2), 70000, np.int32)), "TIFF"),
        r"found an image .*\(pixels from 70000 to 70000, 16 bits at most\).*",
    ),
]


@pytest.mark.parametrize(("content", "sentence"), BROKEN, ids=range(len(BROKEN)))
def test_what_is_no_whole_image_is_one_sentence(tmp_path: Path, content: bytes, sentence: str) -> None:
    with pytest.raises(InputError, match=f"^a/b.png: {sentence}$") as caught:
        decode(content, "a/b.png")
    assert "0x" not in str(caught.value)  # no address, which would differ from run to run
    # Files are opened when they are asked for: reading them is no mistake yet.
    path = put(tmp_path / "x.png", content)
    (picture,) = read(tmp_path).samples
    assert (picture.place, picture.digest) == (str(path), sha256(path))
    with pytest.raises(InputError, match=f"x.png: {sentence}$"):
        picture.pixels()


def test_a_large_image_that_pillow_only_warns_of_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 5)
    with pytest.raises(InputError, match=r"^x: found an image .* exceeds limit of 5 pixels"):
        decode(encoded(TWO), "x")


@settings(max_examples=100, deadline=None)
@given(
    st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "TIFF", "WEBP", "PPM"]),
    st.integers(0, 10**6),
    st.binary(min_size=1, max_size=4),
)
def test_damaged_images_are_decoded_or_refused(kind: str, place: int, damage: bytes) -> None:
    whole = encoded(TWO, kind)
    start = place % len(whole)
    try:
        found = decode(whole[:start] + damage + whole[start + len(damage) :], "x")
    except InputError as error:
        assert str(error).startswith("x: found ") and "\n" not in str(error)
    else:
        assert found.dtype == np.uint8 and found.ndim == 3 and found.shape[2] == 3


# Folders.


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
    message = r": found the folders test, train and no split 'tset', expected the key split to name one, did you mean 'test'\?$"
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


# Arrays.

SHAPES = st.tuples(st.integers(1, 4), st.integers(1, 5), st.integers(1, 5), st.sampled_from([(), (1,), (3,)]))


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    SHAPES,
    st.integers(0, 99),
    st.sampled_from([np.savez, np.savez_compressed]),
    st.sampled_from([np.uint8, np.int64, np.uint16]),
    st.booleans(),
)
def test_arrays_come_back(
    tmp_path: Path,
    shape: tuple[int, int, int, tuple[int, ...]],
    seed: int,
    save: Callable[..., None],
    kind: type[np.generic],
    column: bool,
) -> None:
    draw = np.random.default_rng(seed)
    pixels = draw.integers(0, 256, (*shape[:3], *shape[3]), np.uint8)
    truth = draw.integers(0, 9, shape[0]).astype(kind)
    path = tmp_path / "x.npz"
    save(path, whatever=pixels, y=truth[:, None] if column else truth)
    found = read(path)
    assert (found.labels, found.names, found.counted) == (truth.tolist(), None, True)
    for index, picture in enumerate(found.samples):
        three = np.broadcast_to(pixels[index].reshape(*shape[1:3], -1), (*shape[1:3], 3))
        assert picture.pixels().dtype == np.uint8 and (picture.pixels() == three).all()
        assert picture.place == f"{path}: whatever[{index}]"


PIXELS = np.arange(24, dtype=np.uint8).reshape(2, 3, 4)


def saved(folder: Path, **arrays: Any) -> Path:
    path = folder / "x.npz"
    np.savez(path, **{key: np.asarray(value) for key, value in arrays.items()})
    return path


def test_keys_of_arrays(tmp_path: Path) -> None:
    path = saved(tmp_path, x_train=PIXELS, y_train=[1, 0], x_test=PIXELS[:1], y_test=[2])
    assert read(path, images="x_test", labels="y_test").labels == [2]
    assert read(path, images="x_train").labels is None
    assert len(read(saved(tmp_path, images=PIXELS, masks=PIXELS)).samples) == 2
    assert len(read(saved(tmp_path, x=PIXELS, masks=PIXELS)).samples) == 2


def test_names_of_arrays(tmp_path: Path) -> None:
    for key in ("names", "classes", "labels"):
        found = read(saved(tmp_path, x=PIXELS, y=[1, 0], **{key: ["cat", "dog", "cow"]}))
        assert (found.labels, found.names, found.counted) == ([1, 0], ["cat", "dog", "cow"], True)
    found = read(saved(tmp_path, x=PIXELS, labels=[b"dog", b"cat"]))
    assert (found.labels, found.names, found.counted) == ([1, 0], ["cat", "dog"], False)
    assert read(saved(tmp_path, x=PIXELS, names=["cat", "dog"])).labels is None


def test_images_of_the_same_bytes_and_another_shape_are_others(tmp_path: Path) -> None:
    flat, high = (
        read(saved(tmp_path, x=np.zeros(shape, np.uint8))).samples[0].digest
        for shape in ((1, 2, 8), (1, 4, 4))
    )
    assert flat != high


BAD_ARRAYS: list[tuple[dict[str, Any], dict[str, str], str]] = [
    (
        {},
        {},
        "found no array, expected the key images to name one of uint8 [n, height, width] or [n, height, width, 3]",
    ),
    (
        {"a": PIXELS, "b": PIXELS},
        {},
        "found the arrays a (uint8 [2, 3, 4]), b (uint8 [2, 3, 4]), expected the key images to name one of uint8 [n, height, "
        "width] or [n, height, width, 3]",
    ),
    (
        {"a": [1.5]},
        {},
        "found the arrays a (float64 [1]), expected the key images to name one of uint8 [n, height, width] or [n, height, width, 3]",
    ),
    (
        {"x_train": PIXELS},
        {"images": "x_trian"},
        "found no array 'x_trian', expected one of x_train (uint8 [2, 3, 4]), did you mean 'x_train'?",
    ),
    (
        {"images": PIXELS / 255},
        {},
        "images: found float64 [2, 3, 4], expected uint8 [n, height, width] or [n, height, width, 3]",
    ),
    (
        {"images": PIXELS[0]},
        {},
        "images: found uint8 [3, 4], expected uint8 [n, height, width] or [n, height, width, 3]",
    ),
    (
        {"x": PIXELS[:, :, :, None].repeat(4, 3)},
        {},
        "x: found uint8 [2, 3, 4, 4], expected uint8 [n, height, width] or [n, height, width, 3]",
    ),
    (
        {"x": PIXELS[:, :0]},
        {},
        "x: found uint8 [2, 0, 4], expected uint8 [n, height, width] or [n, height, width, 3]",
    ),
    ({"x": PIXELS[:0]}, {}, "x: found no image, expected at least one"),
    (
        {"x": PIXELS, "y": [1]},
        {},
        "y: found int64 [1], expected whole numbers or texts [2], a label for each image",
    ),
    (
        {"x": PIXELS, "y": [1.0, 2.0]},
        {},
        "y: found float64 [2], expected whole numbers or texts [2], a label for each image",
    ),
    (
        {"x": PIXELS, "y": [[1, 0], [0, 1]]},
        {},
        "y: found int64 [2, 2], expected whole numbers or texts [2], a label for each image",
    ),
    (
        {"x": PIXELS, "y": [1, 0]},
        {"labels": "z"},
        "found no array 'z', expected one of x (uint8 [2, 3, 4]), y (int64 [2])",
    ),
    (
        {"x": PIXELS, "y": [0, 1], "names": ["a", "b", "a"]},
        {},
        "names: found the class 'a' twice, expected distinct names",
    ),
    ({"x": PIXELS, "y": [b"\xff", b"a"]}, {}, "y: found texts that are not in UTF-8"),
    (
        {"x": np.array([PIXELS, None], object)},
        {},
        "x: found object [2], expected uint8 [n, height, width] or [n, height, width, 3]",
    ),
]


@pytest.mark.parametrize(("arrays", "keys", "sentence"), BAD_ARRAYS, ids=range(len(BAD_ARRAYS)))
def test_arrays_that_are_wrong(
    tmp_path: Path, arrays: dict[str, Any], keys: dict[str, str], sentence: str
) -> None:
    path = saved(tmp_path, **arrays)
    with pytest.raises(InputError) as caught:
        read(path, **keys)
    assert str(caught.value).removeprefix(f"{path}: ") == sentence


def test_what_is_pickled_is_not_opened(tmp_path: Path) -> None:
    path = saved(tmp_path, x=PIXELS, y=np.array([0, None], object))
    with pytest.raises(InputError, match=r"y: found object \[2\], expected whole numbers or texts \[2\]"):
        read(path)


@pytest.mark.parametrize(
    "damage", [lambda raw: raw[:-40], lambda raw: raw[:200], lambda raw: b"no zip", lambda raw: b""]
)
def test_files_that_are_no_archive(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = saved(tmp_path, x=PIXELS)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(
        InputError, match=r"x\.npz: not readable as \.npz \(.+\), expected arrays written by numpy\.savez$"
    ):
        read(path)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.integers(0, 10**6), st.binary(min_size=1, max_size=3), st.booleans())
def test_damaged_archives_are_read_or_refused(
    tmp_path: Path, place: int, damage: bytes, packed: bool
) -> None:
    file = io.BytesIO()
    (np.savez_compressed if packed else np.savez)(file, x=PIXELS, y=np.array([0, 1]))
    whole = file.getvalue()
    start = place % len(whole)
    path = put(tmp_path / "x.npz", whole[:start] + damage + whole[start + len(damage) :])
    try:
        found = read(path)
    except InputError as error:
        assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    else:
        assert [picture.pixels().shape for picture in found.samples] == [(3, 4, 3)] * 2


# Tables.


def features(**of: Any) -> datasets.Features:
    return datasets.Features(of)


def dataset(labels: list[Any], kind: Any, image: str = "image", label: str = "label") -> datasets.Dataset:
    rows = {
        image: [{"bytes": png(index), "path": None} for index in range(len(labels))],
        label: labels,
        "id": list(range(len(labels))),
    }
    return datasets.Dataset.from_dict(
        rows, features=features(**{image: datasets.Image(), label: kind, "id": datasets.Value("int64")})
    )


def table(path: Path, *args: Any, **keys: Any) -> Path:
    """As `datasets` writes them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    dataset(*args, **keys).to_parquet(str(path))
    return path


CLASSES = datasets.ClassLabel(names=["cat", "dog", "cow"])


def test_a_table_with_counted_classes(tmp_path: Path) -> None:
    path = table(tmp_path / "x.parquet", [2, 0, -1, None], CLASSES)
    found = read(path)
    assert (found.labels, found.names, found.counted) == ([2, 0, -1, -1], ["cat", "dog", "cow"], True)
    assert (found.samples[1].pixels() == decode(png(1), "")).all()
    assert found.samples[1].place == f"{path}: row 1"
    assert len({picture.digest for picture in found.samples}) == 4


def test_columns_of_tables(tmp_path: Path) -> None:
    other = table(tmp_path / "x.parquet", [1], CLASSES, image="img", label="species")
    assert named(read(other)) == named(read(other, images="img", labels="species")) == ["dog"]
    assert read(other, labels="id").labels == [0] and read(other, labels="id").names is None
    texts = read(table(tmp_path / "y.parquet", ["dog", "cat", None], datasets.Value("string")))
    assert (texts.labels, texts.names, texts.counted) == ([1, 0, -1], ["cat", "dog"], False)


def test_a_table_of_plain_bytes(tmp_path: Path) -> None:
    rows = {"image": pa.array([png(0), None], pa.binary()), "label": pa.array(["a", "b"]).dictionary_encode()}
    pq.write_table(pa.table(rows), tmp_path / "x.parquet")
    found = read(tmp_path / "x.parquet")
    assert named(found) == ["a", "b"] and found.samples[0].pixels().shape == (3, 5, 3)
    with pytest.raises(InputError, match=r"x\.parquet: row 1: found no bytes, expected an image"):
        found.samples[1].pixels()


def test_a_directory_as_the_hub_has_it(tmp_path: Path) -> None:
    table(tmp_path / "data" / "train-00000-of-00002.parquet", [0, 1], CLASSES)
    table(tmp_path / "data" / "train-00001-of-00002-0a1b2c.parquet", [2], CLASSES)
    table(tmp_path / "data" / "test-00000-of-00001.parquet", [1], CLASSES)
    put(tmp_path / "README.md", b"---\n")
    assert named(read(tmp_path)) == ["cat", "dog", "cow"]
    assert named(read(tmp_path, "test")) == named(read(tmp_path, split="test")) == ["dog"]
    with pytest.raises(
        InputError,
        match=r": found the splits test, train and not 'tran', expected the key split to name one of them, did you mean 'train'\?$",
    ):
        read(tmp_path, split="tran")
    table(tmp_path / "other" / "train-00000-of-00001.parquet", [2], CLASSES)
    with pytest.raises(
        InputError,
        match=r": found the split 'train' in .*data and in .*other, expected the path of one of them$",
    ):
        read(tmp_path)
    assert named(read(tmp_path / "other")) == ["cow"]


def test_other_names_of_parquet_files(tmp_path: Path) -> None:
    table(tmp_path / "a" / "part1.parquet", [0], CLASSES)
    table(tmp_path / "a" / "part2.parquet", [1], CLASSES)
    assert named(read(tmp_path / "a")) == ["cat", "dog"]
    with pytest.raises(InputError, match=r": found no splits and not 'test'"):
        read(tmp_path / "a", split="test")
    table(tmp_path / "b" / "test.parquet", [0], CLASSES)
    table(tmp_path / "b" / "train" / "0.parquet", [1], CLASSES)
    assert named(read(tmp_path / "b", "test")) == ["cat"] and named(read(tmp_path / "b")) == ["dog"]
    table(tmp_path / "a" / "part3.parquet", [0], datasets.ClassLabel(names=["dog", "cat"]))
    with pytest.raises(
        InputError,
        match=r"part3\.parquet: found other columns or classes than in .*part1\.parquet, expected the same in all files of a split$",
    ):
        read(tmp_path / "a")


def _plain(path: Path, metadata: object = None, **columns: Any) -> None:
    made = pa.table({name: pa.array(values) for name, values in columns.items()})
    pq.write_table(made.replace_schema_metadata({"huggingface": json.dumps(metadata)}), path)


PICTURE = [png(0)]
BAD_TABLES: list[tuple[dict[str, Any], object, dict[str, str], str]] = [
    (
        {"text": ["a"]},
        None,
        {},
        ": found no column 'image', but text, expected encoded images: bytes, or a structure with bytes (the key images names the column)",
    ),
    (
        {"image": [[1, 2]]},
        None,
        {},
        ": found the column image of list<element: int64>, expected encoded images: bytes, or a structure with bytes (the key "
        "images names the column)",
    ),
    (
        {"image": PICTURE},
        None,
        {"images": "imgae"},
        ": found no column 'imgae', but image, expected encoded images: bytes, or a structure with bytes (the key "
        "images names the column), did you mean 'image'?",
    ),
    (
        {"a": PICTURE, "b": PICTURE},
        None,
        {},
        ": found no column 'image', but a, b, expected encoded images: bytes, or a structure with bytes (the key images "
        "names the column)",
    ),
    (
        {"image": PICTURE, "label": [1]},
        None,
        {"labels": "lable"},
        ": found no column 'lable', expected one of image, label, did you mean 'label'?",
    ),
    (
        {"image": PICTURE, "label": [0.5]},
        None,
        {},
        ": found the column label of double, expected whole numbers or texts",
    ),
    (
        {"image": PICTURE[:0]},
        None,
        {"images": "image"},
        ": found the column image of null, expected encoded images: bytes, or a structure with bytes (the key "
        "images names the column)",
    ),
    (
        {"image": PICTURE, "label": [1]},
        {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["a", "a"]}}}},
        {},
        ": label: found the class 'a' twice, expected distinct names",
    ),
    (
        {"image": PICTURE, "label": [1]},
        {"info": {"features": {"label": {"_type": "ClassLabel", "names": 3}}}},
        {},
        ": found names of the classes of label that are no list of texts",
    ),
    (
        {"image": PICTURE, "label": ["a"]},
        {"info": {"features": {"label": {"_type": "ClassLabel", "names": ["a"]}}}},
        {},
        ": found texts in the column label, expected whole numbers, since its classes are counted",
    ),
]


@pytest.mark.parametrize(("columns", "metadata", "keys", "sentence"), BAD_TABLES, ids=range(len(BAD_TABLES)))
def test_tables_that_are_wrong(
    tmp_path: Path, columns: dict[str, Any], metadata: object, keys: dict[str, str], sentence: str
) -> None:
    path = tmp_path / "x.parquet"
    _plain(path, metadata, **columns)
    with pytest.raises(InputError) as caught:
        read(path, **keys)
    assert str(caught.value).replace("list<item: ", "list<element: ") == f"{path}{sentence}"


@pytest.mark.parametrize(
    "metadata", [None, [], {"info": 3}, {"info": {"features": [1]}}, {"info": {"features": {"label": 3}}}]
)
def test_metadata_that_is_something_else_names_no_classes(tmp_path: Path, metadata: object) -> None:
    _plain(tmp_path / "x.parquet", metadata, image=PICTURE, label=[4])
    found = read(tmp_path / "x.parquet")
    assert (found.labels, found.names, found.counted) == ([4], None, True)


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:-9],
        lambda raw: b"PAR1",
        lambda raw: b"",
        lambda raw: raw[:4] + bytes(len(raw) - 12) + raw[-8:],
    ],
)
def test_files_that_are_no_table(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = table(tmp_path / "x.parquet", [0], CLASSES)
    path.write_bytes(damage(path.read_bytes()))
    with pytest.raises(InputError, match=r"x\.parquet: not readable as \.parquet \(.+\)$"):
        read(path)


# The hub.


def of_hub(default: str = "train", **keys: str) -> Pictures:
    return read_pictures(DataRequest(**keys), default)


def test_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch, tmp_path, dataset([1, 0], CLASSES, image="img"))
    found = of_hub(dataset="org/pets")
    assert named(found) == ["dog", "cat"] and found.counted
    assert [picture.place for picture in found.samples] == [
        "dataset org/pets train: row 0",
        "dataset org/pets train: row 1",
    ]
    assert (found.samples[1].pixels() == decode(png(1), "")).all()
    (name, digest), *others = found.data.items()
    assert (name, len(digest), others) == ("dataset org/pets train", 64, [])
    # The same samples have the same digest, whatever they are called; others have another.
    assert [*of_hub("test", dataset="org/pets@v1", config="small").data.items()] == [
        ("dataset org/pets@v1 small test", digest)
    ]
    assert hub.calls == [("org/pets", None, "train", None), ("org/pets", "small", "test", "v1")]
    hub.found = dataset([1, 1], CLASSES)
    assert [*of_hub(dataset="org/pets", split="train[:2]").data.items()] != [
        ("dataset org/pets train[:2]", digest)
    ]
    hub.found = hub.found.select([1])  # by indices, not as the rows lie
    assert of_hub(dataset="org/pets").samples[0].digest == found.samples[1].digest


def test_images_of_the_hub_that_are_files_in_the_cache(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    paths = [str(put(tmp_path / f"{i}.png", png(i))) for i in range(2)] + [str(tmp_path / "gone.png")]
    made = datasets.Dataset.from_dict(
        {"image": [{"path": path, "bytes": None} for path in paths]},
        features=features(image=datasets.Image()),
    )
    Hub(monkeypatch, tmp_path, made)
    found = of_hub(dataset="org/pets")
    assert found.labels is None and found.samples[0].digest == sha256(Path(paths[0]))
    assert (found.samples[1].pixels() == decode(png(1), "")).all()
    with pytest.raises(
        InputError, match=r"^dataset org/pets train: row 2: found no bytes, expected an image"
    ):
        found.samples[2].pixels()


def test_what_the_hub_refuses_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch, tmp_path, ValueError('Unknown split "test". Should be one of ["train"].\nmore\n'))
    with pytest.raises(
        InputError,
        match=r'^dataset org/pets test: cannot be loaded \(Unknown split "test"\. Should be one of \["train"\]\.\)$',
    ):
        of_hub("test", dataset="org/pets")
    hub.found = ConnectionError()
    with pytest.raises(InputError, match=r"^dataset org/pets train: cannot be loaded \(ConnectionError\)$"):
        of_hub(dataset="org/pets")
    hub.found = dataset([], CLASSES)
    with pytest.raises(
        InputError, match=r"^dataset org/pets train: found no row, expected at least one image$"
    ):
        of_hub(dataset="org/pets")
    hub.found = dataset([0], CLASSES)
    with pytest.raises(
        InputError, match=r"^dataset org/pets train: found no column 'x', expected one of image, label, id$"
    ):
        of_hub(dataset="org/pets", labels="x")
    (tmp_path / "org" / "pets").mkdir(parents=True)
    with pytest.raises(
        InputError,
        match=r"^dataset org/pets train: found a directory 'org/pets' where the command runs, which the library would take for it",
    ):
        of_hub(dataset="org/pets")


@pytest.mark.parametrize("missing", ["pyarrow", "datasets"])
def test_what_is_not_installed_is_named_with_its_extra(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, missing: str
) -> None:
    real: Any = builtins.__import__

    def without(name: str, *args: Any, **keys: Any) -> Any:
        if name.partition(".")[0] == missing:
            raise ImportError(f"No module named {missing!r}", name=missing)
        return real(name, *args, **keys)

    path = table(tmp_path / "x.parquet", [0], CLASSES)
    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(
        MissingRuntime, match=rf"needs the package {missing} \(.*\): pip install 'epmq-export\[datasets\]'$"
    ) as caught:
        read(path) if missing == "pyarrow" else of_hub(dataset="org/pets")
    assert caught.value.exit_code == 4
