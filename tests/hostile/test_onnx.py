"""Truncated, forged and wrong ONNX files: one sentence that names the file, in the reader and in the
runtime.
"""

import json
import random
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import torch
from onnx import ModelProto, TensorProto, helper
from torch import Tensor

from epmq_export.errors import InputError
from epmq_export.verification.runtimes.onnxruntime.runtime import OnnxRuntime
from formats.onnx.format import OnnxQdq
from tests.tiny.onnx_encoders import Written, small

FORMAT, RUNTIME = OnnxQdq(), OnnxRuntime()
QUERY = "encoder.layer.0.attention.self.query.weight"


@pytest.fixture
def copy(tmp_path: Path) -> Written:
    model = small()
    shutil.copytree(model.folder, tmp_path / "model")
    return replace(model, path=FORMAT.find(tmp_path / "model", model.family))


def one_sentence(path: Path, action: Callable[[], object]) -> str:
    with pytest.raises(InputError) as raised:
        action()
    message = str(raised.value)
    assert message.startswith(f"{path}: ") and "\n" not in message
    return message


def refused(copy: Written) -> str:
    """Require that both readers of the file refuse it; return the sentence of the one that reads tensors."""
    one_sentence(copy.path, lambda: FORMAT.open(copy.path, copy.family).differences(copy.packed))
    return one_sentence(copy.path, lambda: list(FORMAT.open(copy.path, copy.family).tensors()))


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.99999])
def test_truncated(copy: Written, share: float, capfd: pytest.CaptureFixture[str]) -> None:
    content = copy.path.read_bytes()
    copy.path.write_bytes(content[: int(share * len(content))])
    assert "not an ONNX file" in (message := refused(copy)) or "not a valid ONNX model" in message
    assert "ONNX Runtime refuses it" in one_sentence(copy.path, lambda: RUNTIME.outputs(copy.path, ["a"]))
    one_sentence(copy.path, lambda: FORMAT.open(copy.path, copy.family).notes())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "content", [b"GGUF\x03\0\0\0" + bytes(100), b'{"format": "pt"}', b"\xff" * 1000, b"<!DOCTYPE html>"]
)
def test_something_else(copy: Written, content: bytes) -> None:
    copy.path.write_bytes(content)
    refused(copy)
    one_sentence(copy.path, lambda: RUNTIME.outputs(copy.path, ["a"]))


def test_absent_and_directory(copy: Written) -> None:
    copy.path.unlink()
    assert "not readable (No such file" in refused(copy)
    one_sentence(copy.path, lambda: RUNTIME.outputs(copy.path, ["a"]))
    copy.path.mkdir()
    assert "not readable (Is a directory" in refused(copy)
    one_sentence(copy.path, lambda: RUNTIME.outputs(copy.path, ["a"]))


def stored(model: ModelProto, name: str) -> TensorProto:
    found: TensorProto = next(tensor for tensor in model.graph.initializer if tensor.name == name)
    return found


def short_data(model: ModelProto) -> None:
    stored(model, f"{QUERY}.codes").raw_data = bytes(100)


def long_data(model: ModelProto) -> None:
    stored(model, f"{QUERY}.codes").raw_data += b"x"


def no_data(model: ModelProto) -> None:
    stored(model, f"{QUERY}.scales").ClearField("raw_data")


def other_dims(model: ModelProto) -> None:
    stored(model, f"{QUERY}.scales").dims[:] = [128, 4]


def negative_dims(model: ModelProto) -> None:
    stored(model, f"{QUERY}.codes").dims[:] = [-128, -128]


def huge_dims(model: ModelProto) -> None:
    stored(model, f"{QUERY}.codes").dims[:] = [2**40, 2**40]


def double(model: ModelProto) -> None:
    tensor = stored(model, "encoder.layer.0.output.dense.bias")
    tensor.CopyFrom(
        onnx.numpy_helper.from_array(onnx.numpy_helper.to_array(tensor).astype(float), tensor.name)
    )


def float_codes(model: ModelProto) -> None:
    tensor = stored(model, f"{QUERY}.codes")
    tensor.CopyFrom(
        helper.make_tensor(tensor.name, TensorProto.FLOAT, [128, 128], bytes(4 * 128 * 128), raw=True)
    )


def unknown_type(model: ModelProto) -> None:
    stored(model, f"{QUERY}.codes").data_type = 99


def elsewhere(model: ModelProto) -> None:
    tensor = stored(model, f"{QUERY}.codes")
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../../etc/passwd")


def no_scales(model: ModelProto) -> None:
    model.graph.initializer.remove(stored(model, f"{QUERY}.scales"))


def no_grids(model: ModelProto) -> None:
    kept = [item for item in model.metadata_props if item.key != "epmq.grids"]
    del model.metadata_props[:]
    model.metadata_props.extend(kept)


def forged_grids(text: str) -> Callable[[ModelProto], None]:
    def forge(model: ModelProto) -> None:
        next(item for item in model.metadata_props if item.key == "epmq.grids").value = text

    forge.__name__ = f"grids {text}"
    return forge


CHANGES = [
    (short_data, "100 bytes"),
    (long_data, "holds 8193 bytes of data, expected 8192"),
    (no_data, QUERY),
    (other_dims, "is no Q4_0"),
    (negative_dims, ""),
    (huge_dims, ""),
    (double, "is of type DOUBLE"),
    (float_codes, "has codes in FLOAT"),
    (unknown_type, ""),
    (
        elsewhere,
        (
            "keeps its data in another file and tells {'location': '../../../etc/passwd'} of them, expected "
            "location, offset, length alone"
        ),
    ),
    (no_scales, ""),
    (no_grids, "no metadata key epmq.grids"),
    *(
        (forged_grids(text), "metadata key epmq.grids")
        for text in (
            *("", "[]", "{", '{"a": 1}', '{"a": []}', '"Q4_0"', '{"other.weight": "Q4_0"}'),
            *("9" * 5000, "[" * 100_000),
        )
    ),
    (forged_grids(json.dumps({QUERY: "Q4_K"})), "expected a JSON object of tensors and Q4_0, Q8_0, Q4_1Z"),
    (
        forged_grids(json.dumps({QUERY: "Q4_1Z"})),
        f"{QUERY}.zeros is missing, metadata key epmq.grids says that {QUERY} is on grid Q4_1Z",
    ),
    (forged_grids(json.dumps({QUERY: "Q8_0"})), f"{QUERY} has codes in INT4, expected INT8 on grid Q8_0"),
]


@pytest.mark.parametrize(
    ("forge", "sentence"), CHANGES, ids=lambda value: getattr(value, "__name__", "")[:20]
)
def test_forged(copy: Written, forge: Callable[[ModelProto], None], sentence: str) -> None:
    model = onnx.load(copy.path)
    forge(model)
    copy.path.write_bytes(model.SerializeToString())
    assert sentence in one_sentence(copy.path, lambda: list(FORMAT.open(copy.path, copy.family).tensors()))


def test_metadata_twice(copy: Written) -> None:
    model = onnx.load(copy.path)
    model.metadata_props.add(key="epmq.recipe", value="{}")
    copy.path.write_bytes(model.SerializeToString())
    assert "duplicate keys" in refused(copy)


def test_names_that_are_no_text(copy: Written) -> None:
    copy.path.write_bytes(copy.path.read_bytes().replace(b"epmq.recipe", b"epmq.rec\xff\xfee", 1))
    assert "not UTF-8" in refused(copy)


@pytest.mark.parametrize("seed", range(4))
def test_any_changed_byte_of_the_structure_is_seen(copy: Written, seed: int) -> None:
    """Names, types, dims, nodes and metadata; the weights' own bytes are the codes check's."""
    content = copy.path.read_bytes()
    structure: list[int] = []
    end = 0
    for tensor in onnx.load(copy.path).graph.initializer:
        if len(tensor.raw_data) > 1000:  # long enough to be found again
            start = content.index(tensor.raw_data, end)
            structure += range(end, start)
            end = start + len(tensor.raw_data)
    structure += range(end, len(content))
    chance = random.Random(seed)
    for _ in range(40):
        changed = bytearray(content)
        changed[chance.choice(structure)] ^= chance.randrange(1, 256)
        copy.path.write_bytes(changed)
        try:
            seen = bool(FORMAT.open(copy.path, copy.family).differences(copy.packed))
            list(FORMAT.open(copy.path, copy.family).tensors())
        except InputError:
            seen = True
        if not seen:  # a byte of a short weight, a bias say
            found = {stored.name: stored.value for stored in FORMAT.open(copy.path, copy.family).tensors()}
            assert any(
                isinstance(value, Tensor) and not torch.equal(value, copy.packed.load(name))
                for name, value in found.items()
            )
