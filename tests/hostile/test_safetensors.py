"""Weights that are truncated, forged or of the wrong kind: one sentence each that names the file and, where
there is one, the tensor.
"""

import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from epmq_export.errors import InputError
from epmq_export.tensors.checkpoint import open_checkpoint

INDEX = "model.safetensors.index.json"


def forge(path: Path, header: Any, data: bytes = b"", length: int | None = None) -> None:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text) if length is None else length) + text + data)


def one(**changes: Any) -> dict[str, Any]:
    return {"w": {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16], **changes}}


@pytest.mark.parametrize(
    ("header", "data", "length"),
    [
        pytest.param(one(), b"\0" * 15, None, id="one byte short"),
        pytest.param(one(), b"\0" * 17, None, id="one byte long"),
        pytest.param(one(shape=[2, 3]), b"\0" * 16, None, id="shape beyond the bytes"),
        pytest.param(one(shape=[1 << 40, 1 << 40]), b"\0" * 16, None, id="shape that overflows"),
        pytest.param(one(data_offsets=[0, 1 << 40]), b"\0" * 16, None, id="offsets beyond the file"),
        pytest.param(one(data_offsets=[8, 24]), b"\0" * 24, None, id="a hole before the data"),
        pytest.param({**one(), "v": one()["w"]}, b"\0" * 16, None, id="tensors that overlap"),
        pytest.param(one(dtype="F99"), b"\0" * 16, None, id="dtype that does not exist"),
        pytest.param(one(shape=[-2, -2]), b"\0" * 16, None, id="negative shape"),
        pytest.param(b"{]", b"", None, id="header that is no JSON"),
        pytest.param(b'{"w": NaN}', b"", None, id="header with NaN"),
        pytest.param(one(), b"\0" * 16, 1 << 60, id="header of an exabyte"),
        pytest.param(b"", b"", None, id="header of nothing"),
    ],
)
def test_a_forged_file(tmp_path: Path, header: Any, data: bytes, length: int | None) -> None:
    forge(tmp_path / "model.safetensors", header, data, length)
    with pytest.raises(InputError, match=r"model\.safetensors: not whole and well-formed safetensors"):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x10",
        b"GGUF" + b"\0" * 60,
        b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n",
    ],
)
def test_a_file_of_another_kind(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"model\.safetensors: not whole and well-formed safetensors"):
        open_checkpoint(tmp_path)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_a_file_cut_anywhere_or_with_any_byte_of_its_header_changed(
    tmp_path: Path, data: st.DataObject
) -> None:
    path = tmp_path / "model.safetensors"
    save_file({"a": torch.arange(4.0), "b": torch.ones(2, 2, dtype=torch.float16)}, path)
    good = path.read_bytes()
    place = data.draw(st.integers(0, len(good) - 1))
    if data.draw(st.booleans()):
        path.write_bytes(good[:place])
        with pytest.raises(InputError, match=r"model\.safetensors"):
            open_checkpoint(tmp_path)
    else:
        path.write_bytes(good[:place] + bytes([data.draw(st.integers(0, 255))]) + good[place + 1 :])
        # A changed byte may leave a good file, of other names or numbers; but it never leads to any other
        # error.
        try:
            source = open_checkpoint(tmp_path)
            for name in source.names():
                assert tuple(source.load(name).shape) == source.shape(name)
        except InputError as error:
            assert "model.safetensors" in str(error)


def test_eight_bit_floats_are_refused_by_name(tmp_path: Path) -> None:
    save_file({"w": torch.ones(4).to(torch.float8_e4m3fn)}, tmp_path / "model.safetensors")
    with pytest.raises(
        InputError, match=r"model\.safetensors: tensor w is of dtype F8_E4M3, expected unquantised weights"
    ):
        open_checkpoint(tmp_path)


def sharded(directory: Path) -> dict[str, Any]:
    save_file({"a": torch.ones(2)}, directory / "model-00001-of-00002.safetensors")
    save_file({"b": torch.ones(2)}, directory / "model-00002-of-00002.safetensors")
    return {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}


def lose_a_shard(directory: Path, placed: dict[str, Any]) -> None:
    (directory / placed["b"]).unlink()


def cut_a_shard(directory: Path, placed: dict[str, Any]) -> None:
    path = directory / placed["b"]
    path.write_bytes(path.read_bytes()[:-1])


def name_a_tensor_that_the_shard_lacks(directory: Path, placed: dict[str, Any]) -> None:
    placed["c"] = placed["a"]


def point_outside(directory: Path, placed: dict[str, Any]) -> None:
    placed["b"] = "../" + placed["b"]


def point_to_a_number(directory: Path, placed: dict[str, Any]) -> None:
    placed["b"] = 2


def place_nothing(directory: Path, placed: dict[str, Any]) -> None:
    placed.clear()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lose_a_shard,
            "tensor b is said to be in model-00002-of-00002.safetensors, but that shard is missing",
        ),
        (cut_a_shard, "model-00002-of-00002.safetensors: not whole"),
        (
            name_a_tensor_that_the_shard_lacks,
            "tensor c is said to be in model-00001-of-00002.safetensors, but that shard has no such tensor",
        ),
        (
            point_outside,
            (
                "tensor b is said to be in '../model-00002-of-00002.safetensors', expected a file of this "
                "directory"
            ),
        ),
        (point_to_a_number, "weight_map is .*, expected an object from tensors to files"),
        (place_nothing, "weight_map is .*, expected an object from tensors to files"),
    ],
)
def test_a_spoilt_index(tmp_path: Path, spoil: Callable[[Path, dict[str, Any]], None], message: str) -> None:
    placed = sharded(tmp_path)
    spoil(tmp_path, placed)
    (tmp_path / INDEX).write_text(json.dumps({"weight_map": placed}))
    with pytest.raises(InputError, match=message):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "text", ["", "[]", "{}", "{", '{"weight_map": []}', '{"weight_map": NaN}', "\xff", "[" * 100_000]
)
def test_an_index_that_is_none(tmp_path: Path, text: str) -> None:
    sharded(tmp_path)
    (tmp_path / INDEX).write_text(text, encoding="latin-1")
    with pytest.raises(InputError, match=INDEX):
        open_checkpoint(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        '{"hidden_size": NaN}',
        '{"eps": -Infinity}',
        "[]",
        "{",
        '{"quantization_config": {"quant_method": "gptq"}}',
    ],
)
def test_a_bad_config(tmp_path: Path, text: str) -> None:
    save_file({"a": torch.ones(2)}, tmp_path / "model.safetensors")
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(InputError, match=r"config\.json: "):
        open_checkpoint(tmp_path)


class Bomb:
    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return (exec, ("raise SystemExit('a pickle was opened')",))


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "model.ckpt", "adapter_model.bin"])
def test_pickles_are_refused_unopened(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    for place in (tmp_path, tmp_path / name):
        with pytest.raises(
            InputError, match=f"{name} is a pickle, which can run any program .* save .* as safetensors"
        ):
            open_checkpoint(place, base=open_checkpoint(good(tmp_path / "base")))


def good(directory: Path) -> Path:
    directory.mkdir(exist_ok=True)
    save_file({"a": torch.ones(2)}, directory / "model.safetensors")
    return directory


def test_a_directory_without_weights(tmp_path: Path) -> None:
    with pytest.raises(
        InputError, match=r"found no weights, expected model\.safetensors, .* or a LoRA adapter"
    ):
        open_checkpoint(tmp_path)


def test_a_file_in_the_place_of_a_directory(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="found a file, expected the directory of a model"):
        open_checkpoint(good(tmp_path) / "model.safetensors")
