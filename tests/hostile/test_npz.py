"""Arrays of images whose headers or bytes are forged: one sentence that names the file."""

import io
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from epmq_export.data.image_arrays import read_arrays
from epmq_export.errors import InputError

GOOD = "{'descr': '|u1', 'fortran_order': False, 'shape': (2, 3, 4, 3), }"


def written(place: Path, header: str, method: int = zipfile.ZIP_STORED) -> Path:
    """Write an .npz of one array of 72 bytes with this header."""
    text = header.encode() + b"\n"
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", method) as archive:
        head = b"\x93NUMPY\1\0" + struct.pack("<H", len(text)) + text
        archive.writestr(zipfile.ZipInfo("x.npy"), head + bytes(72), method)
    place.write_bytes(file.getvalue())
    return place


def test_what_the_forgeries_are_made_of_is_read_where_it_is_sound(tmp_path: Path) -> None:
    (first, _) = read_arrays(written(tmp_path / "images.npz", GOOD), None, None).samples
    assert first.pixels().shape == (3, 4, 3)


@pytest.mark.parametrize(
    "forge",
    [
        pytest.param(lambda header: "{'descr': ('|u1'", id="a header that does not end"),
        pytest.param(lambda header: "(" * 3000, id="a header of brackets"),
        pytest.param(
            lambda header: header.replace("(2,", f"({2**70},"), id="more images than a number holds"
        ),
        pytest.param(lambda header: header.replace("(2,", f"({2**50},"), id="more images than memory holds"),
        pytest.param(lambda header: header.replace("(2,", "(-2,"), id="fewer images than none"),
        pytest.param(lambda header: header.replace("(2,", "(True,"), id="as many as true"),
        pytest.param(lambda header: header.replace("|u1", "|O"), id="objects"),
        pytest.param(lambda header: header.replace("'|u1'", "[('a', '|u1', 5)]"), id="records"),
    ],
)
def test_a_forged_header(tmp_path: Path, forge: Callable[[str], str]) -> None:
    path = written(tmp_path / "images.npz", forge(GOOD))
    with pytest.raises(InputError, match=r"images\.npz: .*, expected ") as error:
        read_arrays(path, None, None)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_forged_bytes_of_every_compression(tmp_path: Path, method: int) -> None:
    path = written(tmp_path / "images.npz", GOOD, method)
    content = path.read_bytes()
    start, end = content.index(b"x.npy") + 14, content.rindex(b"PK\1\2")
    path.write_bytes(content[:start] + b"\xff" * (end - start) + content[end:])
    with pytest.raises(InputError, match=r"images\.npz: .*not readable as \.npz"):
        read_arrays(path, None, None)
