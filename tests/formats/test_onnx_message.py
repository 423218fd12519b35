"""A model that is written weight by weight has the bytes that protobuf gives it."""

from io import BytesIO

import pytest
from onnx import ModelProto, TensorProto, helper

from formats.onnx import message
from formats.onnx.weights import size

NODE = helper.make_node("Identity", ["x"], ["y"])
VALUES = [helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", 3]) for name in "xy"]


def model(*dims: tuple[int, ...]) -> ModelProto:
    graph = helper.make_graph([NODE] * 40, "graph", VALUES[:1], VALUES[1:])
    for number, shape in enumerate(dims):
        kind = (TensorProto.FLOAT, TensorProto.INT4, TensorProto.FLOAT16)[number % 3]
        graph.initializer.add(name=f"weight.{number}", dims=shape, data_type=kind)
    made = helper.make_model(graph, producer_name="some", opset_imports=[helper.make_opsetid("", 21)])
    helper.set_model_props(made, {"b": "2", "a": "1"})
    return made


def data(tensor: TensorProto) -> bytes:
    return bytes(index % 251 for index in range(size(tensor)))


@pytest.mark.parametrize("dims", [[], [(3, 5)], [(), (0, 4), (7,), (300, 200)], [(5000,), (31, 3), (127,)]])
def test_the_bytes_are_those_of_protobuf(dims: list[tuple[int, ...]]) -> None:
    message.write(file := BytesIO(), model(*dims), data)
    whole = model(*dims)
    for tensor in whole.graph.initializer:
        tensor.raw_data = data(tensor)
    assert file.getvalue() == whole.SerializeToString(deterministic=True)


def test_data_of_another_size_are_never_written() -> None:
    with pytest.raises(AssertionError, match=r"weight\.0 has 3 bytes, expected 60"):
        message.write(BytesIO(), model((3, 5)), lambda tensor: b"123")
