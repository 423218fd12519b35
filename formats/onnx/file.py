"""An ONNX file of any origin, without its weights: what it computes, and the names and sizes of its tensors.

protobuf reads a message whole or not at all, weights included. So the file is mapped, the fields of its
messages are walked by their lengths, and protobuf only gets what is left when the data of all tensors are cut
out. The numbers below are those of the fields in onnx.proto.
"""

import mmap
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any, NoReturn

from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import ModelProto, NodeProto, TensorProto, ValueInfoProto

from epmq_export.errors import InputError
from epmq_export.tensors.description import TensorDescription
from formats.onnx import wire
from formats.onnx.wire import Place

_GRAPH, _TRAINING, _FUNCTIONS = 7, 20, 25  # of a ModelProto
_NODES, _INITIALIZERS, _SPARSE, _INPUTS, _OUTPUTS = 1, 5, 15, 11, 12  # of a GraphProto
_FUNCTION_NODES = 7  # of a FunctionProto
_ATTRIBUTES = 5  # of a NodeProto
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS = (5, 10), (6, 11)  # of an AttributeProto
_SPARSE_TENSORS = (1, 2)  # of a SparseTensorProto: values, indices
_DATA = (4, 5, 6, 7, 9, 10, 11)  # of a TensorProto
# The bits of types whose names do not tell them. Others do: FLOAT16, FLOAT8E4M3FN, INT4.
_BITS = {"FLOAT": 32, "DOUBLE": 64, "BOOL": 8}


@dataclass(frozen=True)
class OnnxFile:
    """The metadata and the tensors of an ONNX file."""

    path: Path
    metadata: dict[str, Any]
    """The facts that every ONNX file has, under `onnx.` where they are not empty, and then the model's own
    keys.
    """

    tensors: list[TensorDescription]
    """The initializers, also those of inner graphs. `bytes` are those that are stored, in this file or in
    another.
    """

    elsewhere: list[str]
    """The files that hold data of tensors, relative to this one. They are neither read nor looked for."""

    @classmethod
    def open(cls, path: Path) -> "OnnxFile":
        """Read everything but weights. Raises InputError where the file is no ONNX model, or not all of
        one.
        """
        if path.stat().st_size == 0:
            raise InputError(f"{path}: the file is empty, expected an ONNX model")
        with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
            try:
                walk = _Walk(path, content)
                return cls(
                    path=path,
                    metadata=walk.metadata(),
                    tensors=walk.tensors,
                    elsewhere=walk.elsewhere,
                )
            except (DecodeError, UnicodeDecodeError):
                raise InputError(f"{path}: not an ONNX model, or not all of one") from None


class _Walk:
    """A walk through the messages of a file. It raises DecodeError where the file is not well-formed."""

    def __init__(self, path: Path, content: mmap.mmap) -> None:
        self.path, self.content = path, content
        self.tensors: list[TensorDescription] = []
        self.elsewhere: list[str] = []
        self.operators: Counter[str] = Counter()  # Those in functions and inner graphs count, too.
        self.constants = 0  # These are the bytes of tensors inside of nodes.
        whole = (0, len(content))
        self.model = ModelProto.FromString(self.without(whole, (_GRAPH, _TRAINING, _FUNCTIONS)))
        graphs = [*self.inside(whole, (_GRAPH,))]
        if len(graphs) != 1 or not self.model.ir_version or not self.model.opset_import:
            self.fail()
        self.inputs, self.outputs = self.values(graphs[0], _INPUTS), self.values(graphs[0], _OUTPUTS)
        # Messages that hold others wait in these lists, because a file may nest them deeper than Python can
        # call functions.
        self.graphs, self.nodes = (
            graphs,
            [
                node
                for function in self.inside(whole, (_FUNCTIONS,))
                for node in self.inside(function, (_FUNCTION_NODES,))
            ],
        )
        while self.graphs or self.nodes:
            if self.nodes:
                self.node(self.nodes.pop())
            else:
                self.graph(self.graphs.pop())

    def metadata(self) -> dict[str, Any]:
        model, stored = self.model, {tensor.name for tensor in self.tensors}
        told = {
            "onnx.ir_version": model.ir_version,
            "onnx.opset": {_text(item.domain) or "ai.onnx": item.version for item in model.opset_import},
            "onnx.producer": f"{_text(model.producer_name)} {_text(model.producer_version)}".strip(),
            "onnx.domain": _text(model.domain),
            "onnx.model_version": model.model_version,
            "onnx.doc_string": _text(model.doc_string),
            # In old files weights are inputs, too.
            "onnx.inputs": {name: kind for name, kind in self.inputs.items() if name not in stored},
            "onnx.outputs": self.outputs,
            "onnx.operators": dict(sorted(self.operators.items(), key=lambda entry: (-entry[1], entry[0]))),
            "onnx.constant_bytes": self.constants,
            "onnx.external_data": self.elsewhere,
        }
        return {key: value for key, value in told.items() if value} | {
            _text(item.key): _text(item.value) for item in model.metadata_props
        }

    def fail(self) -> NoReturn:
        raise DecodeError

    def graph(self, graph: Place) -> None:
        self.nodes += self.inside(graph, (_NODES,))
        for place in self.inside(graph, (_INITIALIZERS,)):
            self.tensors.append(self.tensor(place))
        for sparse in self.inside(graph, (_SPARSE,)):
            self.tensors += [self.tensor(place) for place in self.inside(sparse, _SPARSE_TENSORS)]

    def node(self, place: Place) -> None:
        node = NodeProto.FromString(self.without(place, (_ATTRIBUTES,)))
        self.operators[
            _text(node.op_type)
            if node.domain in ("", "ai.onnx")
            else f"{_text(node.domain)}.{_text(node.op_type)}"
        ] += 1
        for attribute in self.inside(place, (_ATTRIBUTES,)):
            self.graphs += self.inside(attribute, _ATTRIBUTE_GRAPHS)
            self.constants += sum(
                self.tensor(constant).bytes for constant in self.inside(attribute, _ATTRIBUTE_TENSORS)
            )

    def tensor(self, place: Place) -> TensorDescription:
        tensor = TensorProto.FromString(self.without(place, _DATA))
        name, kind = _text(tensor.name), _type(tensor.data_type)
        if any(dim < 0 for dim in tensor.dims):
            raise InputError(
                f"{self.path}: tensor {name} has dims {list(tensor.dims)}, expected none below 0"
            )
        size = sum(end - at for at, end in self.inside(place, _DATA))
        if tensor.data_location == TensorProto.EXTERNAL:
            told = {_text(entry.key): _text(entry.value) for entry in tensor.external_data}
            size = self.external(name, told, prod(tensor.dims) * _bits(kind))
        return TensorDescription(name=name, type=kind, shape=tuple(tensor.dims), bytes=size)

    def external(self, name: str, told: Mapping[str, str], bits: int) -> int:
        """Return the bytes of a tensor in another file, whose length the model need not say."""
        length = told.get("length", str((bits + 7) // 8))
        if "location" not in told or not re.fullmatch("[0-9]{1,19}", length):
            raise InputError(
                f"{self.path}: tensor {name} lies in another file, but of that it tells "
                f"{dict(told)!r:.80}, expected location and length"
            )
        if told["location"] not in self.elsewhere:
            self.elsewhere.append(told["location"])
        return int(length)

    def values(self, graph: Place, number: int) -> dict[str, str]:
        found = {}
        for start, end in self.inside(graph, (number,)):
            value = ValueInfoProto.FromString(self.content[start:end])
            kind = value.type.tensor_type
            dims = ", ".join(
                _text(dim.dim_param) or str(dim.dim_value) if dim.WhichOneof("value") else "?"
                for dim in kind.shape.dim
            )
            known = value.type.HasField("tensor_type")
            found[_text(value.name)] = (
                f"{_type(kind.elem_type)} [{dims}]"
                if known
                else str(value.type.WhichOneof("value")).removesuffix("_type")
            )
        return found

    def without(self, place: Place, numbers: Collection[int]) -> bytes:
        return wire.without(self.content, place, numbers)

    def inside(self, place: Place, numbers: Collection[int]) -> Iterator[Place]:
        return wire.inside(self.content, place, numbers)


def _text(value: object) -> str:
    """Return a string of the file. protobuf raises or gives bytes where it is not UTF-8."""
    if not isinstance(value, str):
        raise DecodeError
    return value


def _type(number: int) -> str:
    known = number in TensorProto.DataType.values()
    return str(TensorProto.DataType.Name(number)) if known else f"type {number}"


def _bits(kind: str) -> int:
    named = re.match(r"(?:B?FLOAT|U?INT|COMPLEX)(\d+)", kind)
    return int(named[1]) if named else _BITS.get(kind, 0)
