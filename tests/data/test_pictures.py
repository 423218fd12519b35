"""Images are decoded in one way, and refused in one sentence."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from epmq_export.data.pictures import decode
from epmq_export.errors import InputError
from epmq_export.files import sha256
from tests.data.read_images import read
from tests.tiny.image_files import BLUE, RED, encoded, png, put, two_colours

TWO = Image.fromarray(two_colours())
GREY16 = Image.fromarray(np.array([[0, 256, 40000, 65535]], np.uint16))


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
        r"found an image that cannot be decoded \(Image size \(900000000 pixels\) exceeds limit .*\), "
        r"expected a whole one",
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
