"""An ONNX model as a file, written with one weight in memory at a time. protobuf would hold all of them, and
the whole message once more.

The bytes are those that protobuf gives: fields in the order of their numbers in onnx.proto. What is before
and behind the weights is protobuf's own work.
"""

from collections.abc import Callable
from copy import copy
from typing import BinaryIO

from onnx import GraphProto, ModelProto, TensorProto

from formats.onnx import weights as onnx_weights
from formats.onnx.wire import head

_GRAPH, _INITIALIZER = ModelProto.GRAPH_FIELD_NUMBER, GraphProto.INITIALIZER_FIELD_NUMBER
_RAW_DATA = TensorProto.RAW_DATA_FIELD_NUMBER


def write(file: BinaryIO, model: ModelProto, data: Callable[[TensorProto], bytes]) -> None:
    """Write a model whose initializers have dims, type and name alone, each with the bytes that `data`
    returns for it, as many as dims and type ask for.
    """
    before, behind = _around(model, _GRAPH)
    nodes, values = _around(model.graph, _INITIALIZER)
    weights = [(tensor, _begin(tensor), onnx_weights.size(tensor)) for tensor in model.graph.initializer]
    taken = sum(len(head(_INITIALIZER, len(begin) + size)) + len(begin) + size for _, begin, size in weights)
    file.write(before + head(_GRAPH, len(nodes) + taken + len(values)) + nodes)
    for tensor, begin, size in weights:
        raw = data(tensor)
        assert len(raw) == size, f"{tensor.name} has {len(raw)} bytes, expected {size}"
        file.write(head(_INITIALIZER, len(begin) + size) + begin)
        file.write(raw)
    file.write(values + behind)


def _begin(tensor: TensorProto) -> bytes:
    """Return a tensor's message up to its data, which stand behind dims, type and name."""
    return _serialised(tensor) + head(_RAW_DATA, onnx_weights.size(tensor))


def _around(message: ModelProto | GraphProto, number: int) -> tuple[bytes, bytes]:
    """Return a message's fields before and behind the one of a number, serialised."""
    before, behind = copy(message), copy(message)
    for field, _ in message.ListFields():
        if field.number >= number:
            before.ClearField(field.name)
        if field.number <= number:
            behind.ClearField(field.name)
    return _serialised(before), _serialised(behind)


def _serialised(message: ModelProto | GraphProto | TensorProto) -> bytes:
    content: bytes = message.SerializeToString(deterministic=True)
    return content
