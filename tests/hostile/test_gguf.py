"""GGUF files that are truncated, forged or of another kind: one InputError each, soon, and nothing else."""

import struct
from collections.abc import Callable
from pathlib import Path

import pytest
from gguf import GGMLQuantizationType, GGUFValueType
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from epmq_export.errors import InputError
from epmq_export.models.family import Family
from epmq_export.tensors.gguf_file import GgufFile
from epmq_export.tensors.packed import Packed
from formats.gguf.format import Gguf
from tests.tiny.bert import small_bert, small_packed

HUGE = 2**62


def text(value: str | bytes) -> bytes:
    value = value.encode() if isinstance(value, str) else value
    return struct.pack("<Q", len(value)) + value


def entry(key: str | bytes, kind: int, value: bytes) -> bytes:
    return text(key) + struct.pack("<I", kind) + value


def tensor(
    name: str, shape: tuple[int, ...] = (8,), offset: int = 0, kind: int = GGMLQuantizationType.F32
) -> bytes:
    return text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape, kind, offset)


def forged(
    *entries: bytes,
    tensors: tuple[bytes, ...] = (),
    data: int = 0,
    counts: tuple[int, int] | None = None,
    magic: bytes = b"GGUF",
    version: int = 3,
) -> bytes:
    """A file of these entries and tensor infos, with `data` zero bytes behind the padding."""
    head = magic + struct.pack("<I", version) + struct.pack("<QQ", *(counts or (len(tensors), len(entries))))
    head += b"".join(entries) + b"".join(tensors)
    return head + bytes(-len(head) % 32 + data if data else 0)


UINT32, STRING, ARRAY, BOOL = (
    GGUFValueType.UINT32,
    GGUFValueType.STRING,
    GGUFValueType.ARRAY,
    GGUFValueType.BOOL,
)
FORGERIES: dict[str, tuple[bytes, str]] = {
    "empty": (b"", "the file is empty"),
    "another kind": (b"PK\3\4" + bytes(60), "begins with b'PK.*it is no GGUF file"),
    "no more than a magic": (b"GGUF", "ends within the version"),
    "big-endian": (b"GGUF" + struct.pack(">IQQ", 3, 0, 0), "is big-endian"),
    "version 1": (forged(version=1), "is GGUF version 1, expected 2 or 3"),
    "many tensors": (forged(counts=(HUGE, 0)), "says that it has 4611686018427387904 tensors"),
    "many entries": (forged(counts=(0, HUGE)), "says that it has 4611686018427387904 metadata entries"),
    "long key": (forged(struct.pack("<Q", HUGE) + b"k" * 40), "bytes in key 0, more than"),
    "no key": (forged(entry("", UINT32, bytes(40))), "key 0 is a name of 0 bytes"),
    "key not UTF-8": (forged(entry(b"\xff\xfe", UINT32, bytes(4))), "key 0 is not UTF-8"),
    "value not UTF-8": (forged(entry("k", STRING, text(b"\xc3"))), "the value of 'k' is not UTF-8"),
    "long string": (
        forged(entry("k", STRING, struct.pack("<Q", HUGE) + b"x" * 8)),
        "bytes in the value of 'k', more than",
    ),
    "long array": (
        forged(entry("k", ARRAY, struct.pack("<IQ", UINT32, HUGE) + bytes(8))),
        "items in 'k', more than",
    ),
    "long array of strings": (
        forged(entry("k", ARRAY, struct.pack("<IQ", STRING, HUGE) + bytes(8))),
        "items in 'k', more than",
    ),
    "array of arrays": (
        forged(entry("k", ARRAY, struct.pack("<IQ", ARRAY, 1) + bytes(12))),
        "'k' is an array of arrays",
    ),
    "type 99": (forged(entry("k", 99, bytes(8))), "k is of type 99, expected one of GGUF's 0 to 12"),
    "bool 7": (forged(entry("k", BOOL, b"\7")), "'k' holds a 7, expected a bool"),
    "key of control characters": (
        forged(entry("k\x1b[2J\n" + "y" * 999, 99, bytes(8))),
        r"k\\x1b\[2J\\ny+…$",
    ),
    "key twice": (forged(entry("k", BOOL, b"\1"), entry("k", BOOL, b"\1")), "key 'k' stands twice"),
    "alignment 0": (forged(entry("general.alignment", UINT32, bytes(4))), "general.alignment is 0"),
    "alignment 24": (
        forged(entry("general.alignment", UINT32, struct.pack("<I", 24))),
        "general.alignment is 24",
    ),
    "alignment a string": (
        forged(entry("general.alignment", STRING, text("32"))),
        r"general.alignment is '32' \(STRING\)",
    ),
    "tensor twice": (forged(tensors=(tensor("t"), tensor("t", offset=32)), data=64), "tensor t stands twice"),
    "long tensor name": (
        forged(tensors=(tensor("t" * 64),), data=32),
        "is a name of 64 bytes, expected 1 to 63",
    ),
    "no dimension": (forged(tensors=(tensor("t", ()),), data=32), "tensor t has 0 dimensions"),
    "many dimensions": (
        forged(tensors=(text("t") + struct.pack("<I", 2**31) + bytes(64),), data=32),
        "tensor t has 2147483648 dimensions",
    ),
    "empty tensor": (
        forged(tensors=(tensor("t", (0, 4)),), data=32),
        r"tensor t is \[4, 0\], expected rows of whole F32 blocks of 1",
    ),
    "overflowing tensor": (forged(tensors=(tensor("t", (HUGE, HUGE)),), data=32), "ends within tensor t: "),
    "broken block": (
        forged(tensors=(tensor("t", (33,), kind=GGMLQuantizationType.Q4_0),), data=64),
        "expected rows of whole Q4_0 blocks of 32",
    ),
    "tensor type 4": (
        forged(tensors=(tensor("t", kind=4),), data=32),
        "tensor t is of type 4, which GGUF does not have",
    ),
    "overlap": (
        forged(tensors=(tensor("a"), tensor("b")), data=64),
        "tensor b begins at offset 0, expected 32",
    ),
    "gap": (
        forged(tensors=(tensor("a"), tensor("b", offset=64)), data=96),
        "tensor b begins at offset 64, expected 32",
    ),
    "unaligned": (
        forged(tensors=(tensor("a", offset=4),), data=64),
        "tensor a begins at offset 4, expected 0",
    ),
    "no data": (forged(tensors=(tensor("a"),)), "ends within tensor a: 96 bytes expected, the file has"),
    "too much data": (
        forged(tensors=(tensor("a"),), data=64),
        "has 32 bytes behind its last tensor, expected at most 31",
    ),
}


@pytest.mark.parametrize("name", FORGERIES)
def test_a_forgery_is_one_sentence(name: str, tmp_path: Path) -> None:
    content, sentence = FORGERIES[name]
    path = tmp_path / "model.gguf"
    path.write_bytes(content)
    with pytest.raises(InputError, match=sentence) as caught:
        GgufFile.open(path)
    assert str(caught.value).startswith(f"{path}: ") and "\n" not in str(caught.value)


def test_what_the_forgeries_are_made_of_is_read_where_it_is_sound(tmp_path: Path) -> None:
    path = tmp_path / "model.gguf"
    path.write_bytes(
        forged(
            entry("k", BOOL, b"\1"),
            entry("s", STRING, text("é")),
            tensors=(tensor("a", (2, 4)), tensor("b", offset=32)),
            data=64,
        )
    )
    file = GgufFile.open(path)
    assert {key: value.value for key, value in file.metadata.items()} == {"k": True, "s": "é"}
    assert {name: info.shape for name, info in file.tensors.items()} == {"a": (4, 2), "b": (8,)}


def test_what_is_no_file_is_named(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "none.gguf"):
        with pytest.raises(InputError, match="cannot be read"):
            GgufFile.open(path)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> tuple[Packed, Family]:
    place = tmp_path_factory.mktemp("model")
    return small_packed(place / "packed", small_bert(place / "model"))


@pytest.fixture(scope="module")
def good(model: tuple[Packed, Family], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return Gguf().write(*model, tmp_path_factory.mktemp("good"))


@pytest.fixture(scope="module")
def broken(good: Path) -> Callable[[bytes], Path]:
    def write(content: bytes) -> Path:
        path = good.with_name("broken.gguf")
        path.write_bytes(content)
        return path

    return write


@settings(deadline=2000, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True))
def test_every_truncation_is_named(share: float, good: Path, broken: Callable[[bytes], Path]) -> None:
    content = good.read_bytes()
    path = broken(content[: int(share * len(content))])
    with pytest.raises(InputError, match=r"broken\.gguf: "):
        GgufFile.open(path)


@settings(deadline=2000, max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(share=st.floats(0, 1, exclude_max=True), new=st.binary(min_size=1, max_size=8))
def test_no_forged_byte_of_the_head_does_more_than_an_input_error(
    share: float,
    new: bytes,
    good: Path,
    model: tuple[Packed, Family],
    broken: Callable[[bytes], Path],
    tmp_path: Path,
) -> None:
    content = bytearray(good.read_bytes())
    head = min(info.start for info in GgufFile.open(good).tensors.values())
    at = int(share * (head - 8))
    content[at : at + len(new)] = new
    path = broken(bytes(content))
    try:
        Gguf().open(path, model[1]).exact(path, tmp_path)
    except InputError as error:
        assert str(error).startswith(str(path))
