"""Changes to single bytes of a written GGUF file, found by the key or tensor that they belong to."""

from pathlib import Path

from epmq_export.tensors.gguf_file import GgufFile


def edited(path: Path, place: Path, at: int, new: bytes) -> Path:
    """Write a copy at `place`, with `new` over the bytes from `at` on."""
    content = bytearray(path.read_bytes())
    assert content[at : at + len(new)] != new
    content[at : at + len(new)] = new
    place.write_bytes(content)
    return place


def value_at(path: Path, key: str) -> int:
    """Return where the value of a scalar key begins: behind the key and its type."""
    coded = len(key).to_bytes(8, "little") + key.encode()
    return path.read_bytes().index(coded) + len(coded) + 4


def token_at(path: Path, token: str) -> int:
    """Return where a token's text begins in the vocabulary."""
    coded = token.encode()
    coded = len(coded).to_bytes(8, "little") + coded
    return path.read_bytes().index(coded) + 8


def tensor_at(path: Path, name: str) -> int:
    """Return where a tensor's data begins."""
    return GgufFile.open(path).tensors[name].start
