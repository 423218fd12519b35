"""Files above 4 GiB, with holes: they take no room on disk, and no memory, since of a large tensor nothing is
read.
"""

import json
import struct
from pathlib import Path

import numpy as np
import pytest
import torch
from gguf import GGMLQuantizationType
from onnx import ModelProto, TensorProto

from epmq_export.errors import InputError
from epmq_export.tensors.gguf_file import GgufFile
from epmq_export.tensors.safetensors_file import SafetensorsFile
from epmq_export.tensors.safetensors_header import read_header
from epmq_export.tensors.shards import StoredWeights
from formats.inspect import describe
from formats.onnx import external as onnx_external
from formats.onnx import weights as onnx_weights

LARGE = 2**32 + 2**20
"""Bytes of the first tensor, so that the second's offset takes more than 32 bits."""

VALUES = np.arange(8, dtype=np.float32)


@pytest.fixture(autouse=True)
def little_disk(tmp_path: Path) -> None:
    probe = tmp_path / "probe"
    with probe.open("wb") as file:
        file.truncate(LARGE)
    if probe.stat().st_blocks * 512 > 2**20:
        pytest.skip("files have no holes here")
    probe.unlink()


def with_tail(path: Path, head: bytes, at: int) -> Path:
    """`head`, nothing, and the values at `at`."""
    with path.open("wb") as file:
        file.write(head)
        file.seek(at)
        file.write(VALUES.tobytes())
    assert path.stat().st_size > 2**32 and path.stat().st_blocks * 512 < 2**20
    return path


def gguf_file(path: Path, offset: int = LARGE) -> Path:
    def text(value: str) -> bytes:
        return struct.pack("<Q", len(value)) + value.encode()

    head = (
        b"GGUF"
        + struct.pack("<IQQ", 3, 2, 1)
        + text("general.architecture")
        + struct.pack("<I", 8)
        + text("none")
    )
    for name, rows, start in (("large", LARGE // 4096, 0), ("behind", None, offset)):
        shape = (8,) if rows is None else (1024, rows)
        head += text(name) + struct.pack(
            f"<I{len(shape)}QIQ", len(shape), *shape, GGMLQuantizationType.F32, start
        )
    data = -(-len(head) // 32) * 32
    return with_tail(path, head, data + LARGE)


def test_a_gguf_tensor_past_4_gib(tmp_path: Path) -> None:
    path = gguf_file(tmp_path / "model.gguf")
    file = GgufFile.open(path)
    assert file.tensors["behind"].start > 2**32 and file.tensors["large"].shape == (LARGE // 4096, 1024)
    assert file.raw("behind").tobytes() == VALUES.tobytes()
    assert not file.raw("large")[-4096:].any() and len(file.raw("large")) == LARGE
    assert [tensor.bytes for tensor in describe(path).tensors] == [LARGE, VALUES.nbytes]


def test_a_gguf_offset_that_is_cut_to_32_bits_is_refused(tmp_path: Path) -> None:
    path = gguf_file(tmp_path / "model.gguf", LARGE % 2**32)
    with pytest.raises(InputError, match=f"tensor behind begins at offset {LARGE % 2**32}, expected {LARGE}"):
        GgufFile.open(path)


def test_a_safetensors_tensor_past_4_gib(tmp_path: Path) -> None:
    header = {
        "large": {"dtype": "F32", "shape": [LARGE // 4096, 1024], "data_offsets": [0, LARGE]},
        "behind": {"dtype": "F32", "shape": [8], "data_offsets": [LARGE, LARGE + VALUES.nbytes]},
    }
    head = json.dumps(header).encode()
    head += b" " * (-len(head) % 8)
    name = "model-00001-of-00002.safetensors"
    path = with_tail(tmp_path / name, struct.pack("<Q", len(head)) + head, 8 + len(head) + LARGE)
    assert torch.equal(SafetensorsFile(path).load("behind"), torch.from_numpy(VALUES))
    assert [tensor.bytes for tensor in read_header(path).tensors] == [LARGE, VALUES.nbytes]
    (tmp_path / "model.safetensors.index.json").write_text(
        json.dumps({"weight_map": dict.fromkeys(header, name)})
    )
    assert torch.equal(StoredWeights(tmp_path).load("behind"), torch.from_numpy(VALUES))


def test_the_weights_of_an_onnx_model_past_4_gib(tmp_path: Path) -> None:
    large = TensorProto(name="large", dims=[LARGE // 4], data_type=TensorProto.FLOAT)
    behind = TensorProto(name="behind", dims=[8], data_type=TensorProto.FLOAT)
    for tensor, start in ((large, 0), (behind, LARGE)):
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (
            ("location", "model.onnx_data"),
            ("offset", start),
            ("length", onnx_weights.size(tensor)),
        ):
            tensor.external_data.add(key=key, value=str(value))
    model = ModelProto()
    model.graph.initializer.extend([large, behind])
    with_tail(tmp_path / "model.onnx_data", b"", LARGE)
    onnx_external.check(tmp_path / "model.onnx", model)
    stored = model.graph.initializer[1]
    assert (
        onnx_weights.decode(stored, onnx_external.read(tmp_path / "model.onnx", stored)).tolist()
        == VALUES.tolist()
    )
