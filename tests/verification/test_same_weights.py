"""The GGUF and the ONNX file hold the same weights, bit for bit, read by other code than wrote them."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from gguf import GGMLQuantizationType, GGUFReader, dequantize
from numpy.typing import NDArray
from onnx import TensorProto, numpy_helper

from converters import open_family
from formats.gguf.spec import spec_of
from tests.command_line.command import Result

Weights = dict[str, NDArray[np.float32]]


@pytest.fixture(params=["tiny", "cls"])
def output(request: pytest.FixtureRequest) -> Path:
    if request.param == "cls":
        found: Path = request.getfixturevalue("cls_ran")
        return found
    ran: tuple[Path, Result] = request.getfixturevalue("ran")
    return ran[0]


def of_gguf(path: Path) -> Weights:
    return {
        tensor.name: dequantize(tensor.data, tensor.tensor_type).astype(np.float32)
        for tensor in GGUFReader(path).tensors
    }


def of_onnx(path: Path) -> Weights:
    """DequantizeLinear by its definition, blocks along axis 0 of a linear and along the last axis of a table;
    float32 throughout.
    """
    graph = onnx.load(path).graph
    stored = {tensor.name: numpy_helper.to_array(tensor) for tensor in graph.initializer}
    weights: Weights = {}
    for name, value in stored.items():
        owner, _, part = name.rpartition(".")
        if part == "codes":
            scales = stored[f"{owner}.scales"]
            assert scales.dtype == np.float32
            axis = 0 if value.shape[0] != scales.shape[0] else 1
            block = value.shape[axis] // scales.shape[axis]
            assert block == 32
            values = value.astype(np.float32) * np.repeat(scales, block, axis)
            weights[owner] = values.T if axis == 0 else values
        elif part != "scales":
            weights[name] = value.astype(np.float32)
    return weights


def test_every_weight_is_bit_identical(output: Path) -> None:
    (file,) = (output / "gguf").iterdir()
    gguf, onnx_ = of_gguf(file), of_onnx(output / "onnx" / "onnx" / "model_q4.onnx")
    names = spec_of(open_family(output / "packed")).names
    assert set(names.values()) == set(gguf)
    assert set(names) == set(onnx_)
    for here, there in names.items():
        ours = np.ascontiguousarray(onnx_[here]).view(np.uint32)
        assert np.array_equal(ours, gguf[there].reshape(ours.shape).view(np.uint32)), here


def test_linears_are_four_bits_in_both(output: Path) -> None:
    (file,) = (output / "gguf").iterdir()
    kinds = {tensor.name: tensor.tensor_type for tensor in GGUFReader(file).tensors}
    stored = {
        tensor.name: tensor.data_type
        for tensor in onnx.load(output / "onnx" / "onnx" / "model_q4.onnx").graph.initializer
    }
    for here, there in spec_of(open_family(output / "packed")).names.items():
        if kinds[there] == GGMLQuantizationType.Q4_0:
            assert stored[f"{here}.codes"] == TensorProto.INT4
    assert (
        list(kinds.values()).count(GGMLQuantizationType.Q4_0)
        == list(stored.values()).count(TensorProto.INT4)
        > 0
    )
