"""The ONNX graph of a packed checkpoint: the names of its weights, their layout, and the nodes that read
them.

It is exported from shapes alone. The exporter never sees a weight, so that it can neither fold nor merge two
that happen to be equal, and the graph depends on nothing but the family's config, the shapes, the grids and
the exporter's version.

    quantised linear    NAME.codes INT4 or INT8 [in, out], NAME.scales float32 [in / group, out] ->
                        DequantizeLinear(axis 0) -> MatMul
    quantised rows      NAME.codes INT8 [rows, width], NAME.scales float32 [rows, width / group] -> Gather
                        each -> DequantizeLinear
    ... with zeros      codes UINT2, UINT4 or UINT8, and NAME.zeros of their type and of the scales' shape
    ... of a tied head  all rows -> Transpose each -> DequantizeLinear(axis 0) -> MatMul
    half rows           NAME float16 [rows, width] -> Cast to float32 -> Gather
    half linear         NAME float16 [out, in] -> Cast to float32 -> Transpose -> MatMul
    everything else     NAME float32
    a Relu              Max with 0, so that the linear before it is fused

Nothing but that Cast reads float16. Runtimes do it once, when they load the file, and it asks nothing of a
GPU, while other nodes in half precision fail on one that has none, such as WebGPU without `shader-f16`.
The initializers are the weights and nothing else. The graph's own constants are Constant nodes.
"""

from collections.abc import Collection
from hashlib import sha256

import onnx
import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper

from epmq_export._version import __version__
from epmq_export.errors import InputError
from epmq_export.models.specs import OnnxSpec
from epmq_export.tensors.packed import Packed
from formats.onnx.parts import PARTS, code_kind
from formats.onnx.trace import trace

# The first opset with types of 2 bits, and the version of files that it came with. What is traced for an
# older one computes the same in it.
OPSET_OF_TWO_BITS, _IR_OF_TWO_BITS = 25, 13


def build(packed: Packed, spec: OnnxSpec) -> ModelProto:
    """Return the model with names, types and dims of all its weights and none of their data. The same
    arguments give the same bytes.

    Raises InputError where the checkpoint lacks a tensor of the graph, or the graph reads one in a way that
    its grid has no nodes for.
    """
    for name, grid in packed.grids.items():
        if grid.name not in PARTS:
            raise InputError(
                f"{packed.directory}: {name} is on grid {grid.name}, which ONNX cannot hold, expected one "
                f"of {', '.join(PARTS)}"
            )
    model, weights = trace(spec, packed)
    graph = model.graph
    half = {name for name in weights if packed.storage(name) == torch.float16}
    gathered = {node.input[0] for node in graph.node if node.op_type == "Gather"}
    # Only matrices are in half precision.
    half -= {
        name for node in graph.node if node.op_type not in ("Gather", "Transpose") for name in node.input
    }

    nodes = [helper.make_node("Constant", [], [value.name], value=value) for value in graph.initializer]
    nodes += _widened(graph, half)
    for node in graph.node:
        nodes += _relu(node) if node.op_type == "Relu" else _dequantised(node, packed, gathered)
    del graph.initializer[:], graph.node[:]
    graph.node.extend(nodes)
    for name in weights:
        graph.initializer.extend(_declare(name, packed, name in gathered, name in half))
    if any(tensor.data_type == TensorProto.UINT2 for tensor in graph.initializer):
        model.opset_import[0].version, model.ir_version = OPSET_OF_TWO_BITS, _IR_OF_TWO_BITS
    _tidy(model, spec)
    return model


def linears(graph: GraphProto) -> list[str]:
    """Return the names of the quantised linears. Their codes go straight into DequantizeLinear, where
    quantised rows are gathered first.
    """
    stored = {tensor.name for tensor in graph.initializer} - {
        node.input[0] for node in graph.node if node.op_type == "Gather"
    }
    return [
        node.input[0].removesuffix(".codes")
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in stored
    ]


def heads(graph: GraphProto) -> list[str]:
    """Return the names of the quantised rows that are a tied head as well."""
    made = {node.output[0]: node for node in graph.node if node.op_type == "Transpose"}
    return [
        made[node.input[0]].input[0].removesuffix(".codes")
        for node in graph.node
        if node.op_type == "DequantizeLinear" and node.input[0] in made
    ]


def digest(model: ModelProto) -> str:
    """Return the hex SHA-256 of everything in the file but the weights' data, the places of these, and the
    metadata. All of these are cleared in `model`.
    """
    for tensor in model.graph.initializer:
        for field in ("raw_data", "external_data", "data_location"):
            tensor.ClearField(field)
    del model.metadata_props[:]
    return sha256(model.SerializeToString(deterministic=True)).hexdigest()


def _widened(graph: GraphProto, half: Collection[str]) -> list[NodeProto]:
    """Return a Cast to float32 of each of these weights, and make the graph's nodes read what it gives."""
    casts = [
        helper.make_node("Cast", [name], [f"{name}.float"], f"{name}.cast", to=TensorProto.FLOAT)
        for name in sorted(half)
    ]
    given = {cast.input[0]: cast.output[0] for cast in casts}
    for node in graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = given.get(name, name)
    return casts


def read_in_half(model: ModelProto) -> list[str]:
    """Return the names of float16 tensors: first weights that something else than a Cast reads, then tensors
    that are no weights. The weights need no data.
    """
    inferred = onnx.shape_inference.infer_shapes(model.SerializeToString()).graph
    typed = (*inferred.value_info, *inferred.input, *inferred.output)
    made = {value.name for value in typed if value.type.tensor_type.elem_type == TensorProto.FLOAT16}
    stored = {tensor.name for tensor in inferred.initializer if tensor.data_type == TensorProto.FLOAT16}
    read = {name for node in inferred.node if node.op_type != "Cast" for name in node.input}
    return [*sorted(stored & read), *sorted(made - stored)]


def _relu(node: NodeProto) -> list[NodeProto]:
    """Return a Max in place of a Relu, because ONNX Runtime (1.32) fuses no MatMul that a Relu follows."""
    zero = helper.make_tensor(f"{node.output[0]}.zero", TensorProto.FLOAT, [], [0.0])
    return [
        helper.make_node("Constant", [], [zero.name], value=zero),
        helper.make_node("Max", [*node.input, zero.name], node.output, node.name),
    ]


def _dequantised(node: NodeProto, packed: Packed, gathered: Collection[str]) -> list[NodeProto]:
    """Return the nodes that do what `node` does. They read codes and scales where it reads a weight that is
    on a grid.
    """
    name = next((name for name in node.input if name in packed.grids), None)
    if name is None:
        return [node]
    grid, output = packed.grids[name], node.output[0]
    parts = [f"{name}.{part}" for part in PARTS[grid.name]]
    attributes = {attribute.name: helper.get_attribute_value(attribute) for attribute in node.attribute}
    if node.op_type == "Transpose" and name in gathered:
        # This is a head that is the embeddings, which are laid out as rows. Runtimes transpose constants
        # once, when they load the file, so that it is fused as any linear.
        turned = [
            helper.make_node("Transpose", [part], [f"{part}.turned"], f"{part}.transpose", perm=[1, 0])
            for part in parts
        ]
        return [
            *turned,
            helper.make_node(
                "DequantizeLinear",
                [node.output[0] for node in turned],
                [output],
                f"{name}.head",
                axis=0,
                block_size=grid.group,
            ),
        ]
    if node.op_type == "Transpose" and list(attributes["perm"]) == [1, 0]:
        return [helper.make_node("DequantizeLinear", parts, [output], name, axis=0, block_size=grid.group)]
    if node.op_type == "Gather" and node.input[0] == name and attributes.get("axis", 0) == 0:
        rows = [
            helper.make_node(
                "Gather", [part, node.input[1]], [f"{output}.{part}"], f"{node.name}.{part}", axis=0
            )
            for part in parts
        ]
        gathered = [row.output[0] for row in rows]
        return [
            *rows,
            helper.make_node("DequantizeLinear", gathered, [output], name, axis=-1, block_size=grid.group),
        ]
    raise InputError(
        f"{packed.directory}: {name} is on grid {grid.name}, but the exported model reads it by "
        f"{node.op_type}: keep it in high precision"
    )


def _declare(name: str, packed: Packed, rows: bool, half: bool) -> list[TensorProto]:
    """Return the initializers of a weight, without data."""
    shape = packed.shape(name)
    if name not in packed.grids:
        return [
            TensorProto(name=name, dims=shape, data_type=TensorProto.FLOAT16 if half else TensorProto.FLOAT)
        ]
    grid = packed.grids[name]
    groups = (shape[0], shape[1] // grid.group)
    kind = code_kind(grid, shape, rows)
    dims = {"codes": shape, "scales": groups, "zeros": groups}
    kinds = {"codes": kind, "scales": TensorProto.FLOAT, "zeros": kind}
    return [
        TensorProto(
            name=f"{name}.{part}", dims=dims[part] if rows else dims[part][::-1], data_type=kinds[part]
        )
        for part in PARTS[grid.name]
    ]


def _tidy(model: ModelProto, spec: OnnxSpec) -> None:
    """Name the dynamic axes, and drop the exporter's own notes, such as stack traces with local paths."""
    graph = model.graph
    for value in (*graph.input, *graph.output):
        for axis, name in {**spec.inputs, **spec.outputs}[value.name].items():
            value.type.tensor_type.shape.dim[axis].dim_param = name
    for item in (*graph.node, *graph.input, *graph.output, graph, model):
        item.ClearField("doc_string")
        item.ClearField("metadata_props")
    del graph.value_info[:]
    model.producer_name, model.producer_version = "epmq-export", __version__
