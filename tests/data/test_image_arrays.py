"""Images in the arrays of an .npz file."""

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from epmq_export.errors import InputError
from tests.data.read_images import read
from tests.tiny.image_files import put

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
        "found no array, expected the key images to name one of uint8 [n, height, width] or [n, height, "
        "width, 3]",
    ),
    (
        {"a": PIXELS, "b": PIXELS},
        {},
        "found the arrays a (uint8 [2, 3, 4]), b (uint8 [2, 3, 4]), expected the key images to name one of "
        "uint8 [n, height, "
        "width] or [n, height, width, 3]",
    ),
    (
        {"a": [1.5]},
        {},
        "found the arrays a (float64 [1]), expected the key images to name one of uint8 [n, height, width] "
        "or [n, height, width, 3]",
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
