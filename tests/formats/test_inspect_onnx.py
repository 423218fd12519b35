"""ONNX files that are broken or forged, as `epmq inspect` meets them."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from epmq_export.errors import InputError
from formats.inspect import describe


@pytest.fixture(scope="module")
def onnx_bytes() -> bytes:
    weight = numpy_helper.from_array(np.ones((4, 4), np.float32), "w")
    graph = helper.make_graph(
        [helper.make_node("MatMul", ["x", "w"], ["y"], "n")],
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, [1, 4])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [1, 4])],
        [weight],
    )
    content: bytes = helper.make_model(graph).SerializeToString()
    return content


@given(data=st.data())
def test_no_byte_of_an_onnx_does_more_than_an_input_error(
    data: st.DataObject, onnx_bytes: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.getbasetemp() / "forged.onnx"
    content = bytearray(onnx_bytes[: data.draw(st.integers(1, len(onnx_bytes)), "length")])
    for at, byte in data.draw(
        st.lists(st.tuples(st.integers(0, len(content) - 1), st.integers(0, 255)), max_size=3), "changes"
    ):
        content[at] = byte
    path.write_bytes(content)
    try:
        json.dumps(describe(path).as_dict(), allow_nan=False)
    except InputError as error:
        assert str(error).startswith(str(path))


def test_every_truncation_of_an_onnx_is_an_error(onnx_bytes: bytes, tmp_path: Path) -> None:
    path = tmp_path / "x.onnx"
    for length in range(len(onnx_bytes)):
        path.write_bytes(onnx_bytes[:length])
        with pytest.raises(InputError):
            describe(path)


def test_graphs_nested_deeper_than_python_may_call(tmp_path: Path) -> None:
    def message(number: int, content: bytes) -> bytes:
        length, coded = len(content), b""
        while length > 127:
            coded, length = coded + bytes([length & 127 | 128]), length >> 7
        return bytes([number << 3 | 2]) + coded + bytes([length]) + content

    graph = b""
    for _ in range(3000):
        graph = message(1, message(4, b"If") + message(5, message(6, graph)))
    path = tmp_path / "deep.onnx"
    path.write_bytes(bytes([1 << 3, 8]) + message(8, bytes([2 << 3, 21])) + message(7, graph))
    assert describe(path).metadata["onnx.operators"] == {"If": 3000}


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("location", None, "lies in another file, but of that it tells"),
        ("length", "-4", "expected location and length"),
        ("dims", -1, "expected none below 0"),
    ],
)
def test_a_forged_tensor_of_an_onnx(
    field: str, value: str | int | None, sentence: str, onnx_bytes: bytes, tmp_path: Path
) -> None:
    model = onnx.load_from_string(onnx_bytes)
    weight = model.graph.initializer[0]
    if isinstance(value, int):
        weight.dims[0] = value
    else:
        weight.data_location = TensorProto.EXTERNAL
        for key, text in {"location": "there", "length": "64", field: value}.items():
            if text is not None:
                weight.external_data.add(key=key, value=text)
    path = tmp_path / "x.onnx"
    path.write_bytes(model.SerializeToString())
    with pytest.raises(InputError, match=rf"x\.onnx: tensor w .*{sentence}"):
        describe(path)
