"""What torch's exporter to ONNX translates: a module captured by torch.export, in operators that the exporter
has translations of.

The exporter itself would run a captured program twice more, to take apart what it has no translation of: a
third of its time. Models use few such operators, and each of them is replaced here without a run.
"""

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.export import ExportedProgram
from torch.fx import Node

_aten = torch.ops.aten


def captured(
    module: nn.Module, inputs: tuple[Tensor, ...], dynamic: Sequence[Mapping[int, Any]]
) -> ExportedProgram:
    """Return the program of a module that takes its inputs as `*given`, whose axes in `dynamic` may have any
    length.

    Where all its operators are known here, the exporter translates it as it is. Any other program is taken
    apart by the exporter first, as every program would be.
    """
    with torch.no_grad():  # What a module itself does without gradients would be a graph within the graph.
        program = torch.export.export(module, inputs, dynamic_shapes=(tuple(dynamic),), strict=False)
    program.graph.eliminate_dead_code()
    if all(_is_known(node) for node in program.graph.nodes):
        for node in [*program.graph.nodes]:
            if node.target in _REPLACED:
                _REPLACED[node.target](node)
        program.graph_module.recompile()
        program.run_decompositions = lambda *_: program
    return program


def _is_known(node: Node) -> bool:
    """Return whether a node needs no more than what is known here. What computes lengths of axes does."""
    if node.op != "call_function" or node.target in _TRANSLATED or node.target in _REPLACED:
        return node.op != "get_attr"
    return isinstance(node.meta.get("val"), torch.SymInt | torch.SymBool)


def _cast(node: Node) -> None:
    """Let a node convert its input to the type that it makes, on the device where it is then."""
    made = node.meta["val"]
    node.kwargs = {"dtype": made.dtype, "device": made.device}
    node.target, node.args = _aten._to_copy.default, node.args[:1]


def _renamed(target: Any, *more: Any) -> Callable[[Node], None]:  # noqa: ANN401
    """Return what gives a node another operator, with more arguments."""

    def rename(node: Node) -> None:
        node.target, node.args = target, (*node.args, *more)

    return rename


def _copy(node: Node) -> None:
    """Let a node copy its input, which the exporter's optimiser drops."""
    node.target, node.args, node.kwargs = _aten.clone.default, node.args[:1], {}


_TRANSLATED = frozenset(
    [
        _aten._assert_scalar.default,
        _aten._assert_tensor_metadata.default,
        _aten.abs.default,
        _aten.add.Tensor,
        _aten.arange.default,
        _aten.arange.start,
        _aten.argmax.default,
        _aten.bitwise_not.default,
        _aten.cat.default,
        _aten.chunk.default,
        _aten.clamp.default,
        _aten.clamp_min.default,
        _aten.conv2d.default,
        _aten.cos.default,
        _aten.div.Tensor,
        _aten.embedding.default,
        _aten.eq.Scalar,
        _aten.exp.default,
        _aten.expand.default,
        _aten.expand_as.default,
        _aten.flatten.using_ints,
        _aten.ge.Scalar,
        _aten.ge.Tensor,
        _aten.gelu.default,
        _aten.index.Tensor,
        _aten.layer_norm.default,
        _aten.le.Scalar,
        _aten.linalg_vector_norm.default,
        _aten.linear.default,
        _aten.lt.Scalar,
        _aten.masked_fill.Scalar,
        _aten.matmul.default,
        _aten.mean.dim,
        _aten.mul.Tensor,
        _aten.neg.default,
        _aten.permute.default,
        _aten.pow.Tensor_Scalar,
        _aten.relu.default,
        _aten.reshape.default,
        _aten.rsqrt.default,
        _aten.scaled_dot_product_attention.default,
        _aten.scatter.src,
        _aten.select.int,
        _aten.sigmoid.default,
        _aten.silu.default,
        _aten.sin.default,
        _aten.slice.Tensor,
        _aten.softmax.int,
        _aten.split_with_sizes.default,
        _aten.sub.Tensor,
        _aten.sum.dim_IntList,
        _aten.sym_size.int,
        _aten.tanh.default,
        _aten.topk.default,
        _aten.transpose.int,
        _aten.unbind.int,
        _aten.unsqueeze.default,
        _aten.view.default,
        _aten.where.ScalarOther,
        _aten.zeros.default,
        _aten.zeros_like.default,
        operator.getitem,
    ]
)
"""Operators that the exporter has a translation of, and that it takes apart for no model of ours."""

_REPLACED: Mapping[object, Callable[[Node], None]] = {
    _aten.__and__.Tensor: _renamed(_aten.bitwise_and.Tensor),
    _aten.__or__.Tensor: _renamed(_aten.bitwise_or.Tensor),
    _aten.contiguous.default: _copy,
    _aten.dropout.default: _copy,
    _aten.numpy_T.default: _renamed(_aten.permute.default, [1, 0]),
    _aten.square.default: _renamed(_aten.pow.Tensor_Scalar, 2),
    _aten.to.device: _cast,
    _aten.to.dtype: _cast,
    _aten.to.dtype_layout: _cast,
}
"""What stands for operators that it has no translation of. The parts are in evaluation, so that they drop
nothing.
"""
