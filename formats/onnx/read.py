"""The reading of an ONNX file that this project wrote, by a reader that trusts nothing unchecked.

protobuf would read all weights, and onnx's checker would copy them twice more. So they are cut out of the
message before, and each is read from the file when it is asked for.
"""

import json
import mmap
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]
from onnx import GraphProto, ModelProto, TensorProto
from torch import Tensor

from epmq_export.errors import InputError, first_line
from epmq_export.grids import GRIDS, Grid
from epmq_export.models.format import StoredTensor
from epmq_export.tensors.packed import PackedTensor
from formats.onnx import external as onnx_external
from formats.onnx import graph as onnx_graph
from formats.onnx import weights as onnx_weights
from formats.onnx import wire
from formats.onnx.metadata import GRIDS_KEY, keys_of, short
from formats.onnx.parts import PARTS, code_kind, packed_of
from formats.onnx.wire import Place

_GRAPH, _INITIALIZER = ModelProto.GRAPH_FIELD_NUMBER, GraphProto.INITIALIZER_FIELD_NUMBER
_RAW_DATA = TensorProto.RAW_DATA_FIELD_NUMBER


@dataclass(frozen=True)
class Skeleton:
    """The facts about a model that are kept after its weights were read, in plain values, because a protobuf
    message frees none of its memory before all of it is gone.
    """

    metadata: Mapping[str, str]

    digest: str
    """The SHA-256 of the graph itself, whatever the metadata say."""

    tensors: Collection[str]
    """The names of its tensors, and of those that its initializers are parts of."""

    linears: int
    """The number of its quantised linears, a tied head among them."""

    external: bool
    """Whether its weights lie in another file."""

    half: Sequence[str]
    """The float16 tensors that something else than a Cast reads, or that are no weights."""

    @classmethod
    def of(cls, model: ModelProto) -> "Skeleton":
        """Return the skeleton of a model. The model keeps only what `graph.digest` leaves of it."""
        return cls(
            metadata=keys_of(model),
            tensors=held(model),
            linears=len(onnx_graph.linears(model.graph)) + len(onnx_graph.heads(model.graph)),
            external=onnx_external.used(model),
            digest=onnx_graph.digest(model),  # This clears what those before it read.
            half=onnx_graph.read_in_half(model),
        )


def held(model: ModelProto) -> set[str]:
    """Return the names of a model's tensors, and of those that its initializers are parts of."""
    return {
        name for tensor in model.graph.initializer for name in (tensor.name, tensor.name.rpartition(".")[0])
    }


@dataclass(frozen=True)
class OpenModel:
    """A model that is checked, but for the values of its weights."""

    path: Path
    model: ModelProto
    """The model without the raw data of its initializers."""

    places: Mapping[str, Place]
    """Where the data of each initializer lie in the file, by its name."""

    def decoded(self, tensor: TensorProto) -> Tensor:
        """Return the values of an initializer."""
        if tensor.data_location == TensorProto.EXTERNAL:
            return onnx_weights.decode(tensor, onnx_external.read(self.path, tensor))
        start, end = self.places[tensor.name]
        raw = onnx_external.read_at(self.path, start, end - start, tensor.name)
        return onnx_weights.decode(tensor, raw)


def read_model(path: Path) -> OpenModel:
    """Open a model.

    Raises InputError unless it is well-formed, and the types, sizes and places of all its weights are right.
    """
    model = ModelProto()
    try:
        content, places = _without_data(path)
        model.ParseFromString(content)
        apart = onnx_external.used(model)
        if not apart:
            onnx.checker.check_model(_hollow(model))
        readable = all(isinstance(name, str) for name in _names(model))
    except OSError as error:
        raise InputError(f"{path}: not readable ({error.strerror})") from None
    except DecodeError:
        raise InputError(f"{path}: not an ONNX file, or not all of one") from None
    except (onnx.checker.ValidationError, UnicodeDecodeError) as error:
        raise InputError(f"{path}: not a valid ONNX model ({first_line(error)})") from None
    if not readable:  # protobuf gave bytes in place of a string.
        raise InputError(f"{path}: not a valid ONNX model (a name in it is not UTF-8)")
    found: dict[str, Place] = {}
    for tensor, (start, end) in zip(model.graph.initializer, places, strict=True):
        if tensor.name in found:
            raise InputError(f"{path}: not a valid ONNX model (it has two initializers {tensor.name})")
        onnx_weights.check(tensor, end - start, str(path))
        found[tensor.name] = start, end
    # The checker itself opens the files of other weights, so the places are checked before. It finds them
    # only if it is given a path.
    if apart:
        onnx_external.check(path, model)
        try:
            onnx.checker.check_model(str(path))
        except onnx.checker.ValidationError as error:
            raise InputError(f"{path}: not a valid ONNX model ({first_line(error)})") from None
    return OpenModel(path, model, found)


def _hollow(model: ModelProto) -> ModelProto:
    """Return a copy of a model whose initializers have no entries, because the checker compares shapes with
    the data, which are cut out. `weights.check` does so for what is in the file.
    """
    copy = ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        tensor.dims[:] = [0]
    return copy


def _without_data(path: Path) -> tuple[bytes, list[Place]]:
    """Return the message of a model without the raw data of its initializers, and the places of these in the
    file, in the order of the initializers. Raises DecodeError where the file is no such message.
    """
    if path.stat().st_size == 0:  # Nothing can be mapped of it.
        raise DecodeError
    places: list[Place] = []
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        graphs = [*wire.inside(content, (0, len(content)), (_GRAPH,))]
        if len(graphs) != 1:
            raise DecodeError
        parts = []
        for field in wire.fields(content, graphs[0]):
            if field.number != _INITIALIZER:
                parts.append(content[field.start : field.end])
                continue
            tensor = field.at, field.end
            raw = [*wire.inside(content, tensor, (_RAW_DATA,))]
            if len(raw) > 1:
                raise DecodeError
            rest = wire.without(content, tensor, (_RAW_DATA,))
            places += raw or [(0, 0)]
            parts += [wire.head(_INITIALIZER, len(rest)), rest]
        graph = b"".join(parts)
        around = wire.without(content, (0, len(content)), (_GRAPH,))
    return around + wire.head(_GRAPH, len(graph)) + graph, places


def tensors_of(opened: OpenModel) -> Iterator[StoredTensor]:
    """Yield the tensors of a model: codes, int8 [out, in], and stored numbers as the packed checkpoint has
    them, or plain float16 or float32.

    Raises InputError where initializers are no tensor on a grid. A scale that is no float16 value, which no
    written file has, comes back as NaN, which equals none of the checkpoint's.
    """
    graph = opened.model.graph
    grids = _grids(opened.path, opened.model)
    stored = {tensor.name: tensor for tensor in graph.initializer}
    linears = set(onnx_graph.linears(graph))
    for name, grid in grids.items():
        yield StoredTensor(name, _on_grid(opened, stored, name, grid, name in linears))
    for name, tensor in stored.items():
        if name.rpartition(".")[0] not in grids:
            yield StoredTensor(name, opened.decoded(tensor))


def _names(model: ModelProto) -> Iterator[str]:
    """Yield all strings of a model that are read."""
    for node in model.graph.node:
        yield from (*node.input, node.op_type)
    for tensor in model.graph.initializer:
        yield tensor.name
        for entry in tensor.external_data:
            yield from (entry.key, entry.value)
    for item in model.metadata_props:
        yield from (item.key, item.value)


def _grids(path: Path, model: ModelProto) -> dict[str, Grid]:
    text = keys_of(model).get(GRIDS_KEY)
    if text is None:
        raise InputError(f"{path}: it has no metadata key epmq.grids: this project did not write it")
    try:
        grids = json.loads(text)
        return {name: GRIDS[grid] for name, grid in grids.items() if PARTS[grid]}
    except (ValueError, AttributeError, KeyError, TypeError, RecursionError):
        raise InputError(
            f"{path}: metadata key epmq.grids is {short(text)}, expected a JSON object of tensors and "
            f"{', '.join(PARTS)}"
        ) from None


def _on_grid(
    opened: OpenModel, stored: dict[str, TensorProto], name: str, grid: Grid, linear: bool
) -> PackedTensor:
    path = opened.path
    parts = PARTS[grid.name]
    for part in parts:
        if f"{name}.{part}" not in stored:
            raise InputError(
                f"{path}: {name}.{part} is missing, metadata key epmq.grids says that {name} is on grid "
                f"{grid.name}"
            )
    tensors = {part: stored[f"{name}.{part}"] for part in parts}
    dims = {part: list(tensor.dims[::-1] if linear else tensor.dims) for part, tensor in tensors.items()}
    shape = dims.pop("codes")
    if (
        len(shape) != 2
        or not grid.fits((shape[0], shape[1]))
        or any(found != [shape[0], shape[1] // grid.group] for found in dims.values())
    ):
        shown = " and ".join(f"{part} of dims {list(tensor.dims)}" for part, tensor in tensors.items())
        raise InputError(f"{path}: {name} has {shown}, which is no {grid.name}")
    kind = code_kind(grid, shape, not linear)
    wanted = {"codes": kind, "scales": TensorProto.FLOAT, "zeros": kind}
    for part, tensor in tensors.items():
        if tensor.data_type != wanted[part]:
            expected = TensorProto.DataType.Name(wanted[part])
            raise InputError(
                f"{path}: {name} has {part} in {onnx_weights.type_name(tensor)}, expected {expected} on "
                f"grid {grid.name}"
            )
    values = {part: opened.decoded(tensor) for part, tensor in tensors.items()}
    if linear:
        values = {part: value.T.contiguous() for part, value in values.items()}
    return packed_of(grid, values)
