"""The traced nodes in forms that run faster. torch's exporter spells everything out; each rule here finds one
of its spellings and makes the same value in fewer nodes, or in the pattern that ONNX Runtime fuses.

A rule is given the node that makes a value, and returns the nodes that make it instead, or nothing. What the
new nodes do not read is left behind, and is dropped with all that no output depends on. All operators are
those of ONNX itself, so that every runtime can run them.
"""

from collections.abc import Callable, Sequence
from itertools import permutations
from typing import Any

import numpy as np
from onnx import GraphProto, NodeProto, helper, numpy_helper

# A pattern is the name that the value is found under, or an operator with the patterns of its inputs. "x:Op"
# finds the value that the operator makes under the name x.
Pattern = str | tuple[Any, ...]
_EITHER_ORDER = ("Add", "Mul")
_LOWEST, _HIGHEST = np.iinfo(np.int64).min, np.iinfo(np.int64).max


class Traced:
    """A traced graph, whose initializers are constants."""

    def __init__(self, graph: GraphProto) -> None:
        self.graph = graph
        self.made = {name: node for node in graph.node for name in node.output}
        self._dims = {
            value.name: tuple(dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim)
            for value in (*graph.input, *graph.value_info, *graph.output)
        }
        self.constants = {value.name: numpy_helper.to_array(value) for value in graph.initializer}

    def dims(self, name: str) -> tuple[int | str, ...] | None:
        """Return the lengths of a value's axes, or None where the exporter does not tell all of them."""
        dims = self._dims.get(name)
        return dims if dims and all(dims) else None

    def constant(self, name: str) -> list[Any] | None:
        """Return the values of a constant, flat, or None where it is none."""
        return self.constants[name].ravel().tolist() if name in self.constants else None

    def attribute(self, name: str, key: str) -> object:
        """Return an attribute of the node that makes a value, a list for a list, or None."""
        for attribute in self.made[name].attribute:
            if attribute.name == key:
                value = helper.get_attribute_value(attribute)
                return value if isinstance(value, int | float | bytes) else [*value]
        return None

    def find(self, name: str, pattern: Pattern, found: dict[str, str] | None = None) -> dict[str, str] | None:
        """Return the values of a pattern that ends in the value `name`, by their names in the pattern, or
        None where it is made otherwise.
        """
        found = found or {}
        if isinstance(pattern, str):
            return {**found, pattern: name} if found.get(pattern, name) == name else None
        label, _, operator = pattern[0].rpartition(":")
        node = self.made.get(name)
        if node is None or node.op_type != operator or len(node.input) != len(pattern) - 1:
            return None
        inputs = pattern[1:]
        for order in permutations(inputs) if operator in _EITHER_ORDER else [inputs]:
            at: dict[str, str] | None = {**found, label: name} if label else found
            for given, wanted in zip(node.input, order, strict=True):
                at = self.find(given, wanted, at) if at is not None else None
            if at is not None:
                return at
        return None

    def integers(self, *values: int) -> str:
        """Return the name of a constant, int64 [len(values)], which is added where there is none yet."""
        name = "integers." + ".".join(map(str, values))
        if name not in self.constants:
            self.constants[name] = np.array(values, np.int64)
            self.graph.initializer.append(numpy_helper.from_array(self.constants[name], name))
        return name


Rule = Callable[[Traced, NodeProto], Sequence[NodeProto]]


def rewrite(graph: GraphProto) -> None:
    """Apply all rules, in their order, to a graph whose initializers are constants."""
    for rule in RULES:
        traced = Traced(graph)
        nodes: list[NodeProto] = []
        made: set[str] = set()
        for node in graph.node:
            for new in rule(traced, node) or [node]:
                if made.isdisjoint(new.output):  # Two nodes may ask for the same helper.
                    nodes.append(new)
                made.update(new.output)
        del graph.node[:]
        graph.node.extend(nodes)


def softmax(traced: Traced, node: NodeProto) -> list[NodeProto]:
    """Leave out what turns NaN into 0 behind a Softmax. The exporter's masks hold the lowest finite number,
    so that a row that sees no token gets a mean, and there is no NaN.
    """
    found = traced.find(node.output[0], ("Where", ("IsNaN", "weights"), "zero", "weights"))
    made = found and traced.made.get(found["weights"])
    if not made or made.op_type != "Softmax" or any(np.isneginf(v).any() for v in traced.constants.values()):
        return []
    return [_copy(made, made.input, node)]


def rms_norm(traced: Traced, node: NodeProto) -> list[NodeProto]:
    """Divide by a root instead of multiplying by its reciprocal, as ONNX Runtime fuses an RMS norm."""
    found = traced.find(node.output[0], ("Mul", "x", ("Reciprocal", ("root:Sqrt", "mean"))))
    return [helper.make_node("Div", [found["x"], found["root"]], node.output, node.name)] if found else []


def transposed_keys(traced: Traced, node: NodeProto) -> list[NodeProto]:
    """Transpose keys in one node. The exporter flattens all axes but two for it."""

    def length(start: str, end: str) -> Pattern:
        return ("Slice", ("Shape", "keys"), start, end)

    batch, rows, columns = length("lowest", "-2"), length("-2", "-1"), length("-1", "highest")
    flat = ("Reshape", "keys", ("Concat", "-1", rows, columns))
    found = traced.find(
        node.output[0], ("Reshape", ("turned:Transpose", flat), ("Concat", batch, columns, rows))
    )
    places = {"lowest": _LOWEST, "-2": -2, "-1": -1, "highest": _HIGHEST}
    if (
        not found
        or any(traced.constant(found[name]) != [value] for name, value in places.items())
        or traced.attribute(found["turned"], "perm") != [0, 2, 1]
        or len(traced.dims(found["keys"]) or ()) != 4
    ):
        return []
    return [helper.make_node("Transpose", [found["keys"]], node.output, node.name, perm=[0, 1, 3, 2])]


def rotation(traced: Traced, node: NodeProto) -> list[NodeProto]:
    """Turn pairs of values by one Split and one Concat. The sign is the sine's, once for all layers."""
    low = ("Slice", "x", "0", "half", "axis", "1")
    high = ("Slice", "x", "half", "highest", "axis", "1")
    found = traced.find(node.output[0], ("Mul", ("turned:Concat", ("Neg", high), low), "sine"))
    if not found:
        return []
    dims, (half,) = traced.dims(found["x"]), traced.constant(found["half"]) or [None]
    sines = traced.dims(found["sine"])
    constants = {"0": [0], "highest": [_HIGHEST], "1": [1]}
    if (
        not dims
        or not sines
        or not isinstance(width := dims[-1], int)
        or sines[-1] != width
        or width != 2 * (half or 0)
        or traced.attribute(found["turned"], "axis") not in (-1, len(dims) - 1)
        or traced.constant(found["axis"]) not in ([-1], [len(dims) - 1])
        or any(traced.constant(found[name]) != value for name, value in constants.items())
    ):
        return []
    sine, halves = found["sine"], traced.integers(width // 2, width // 2)

    def split(name: str, under: str) -> NodeProto:
        made = [f"{under}.low", f"{under}.high"]
        return helper.make_node("Split", [name, halves], made, f"{under}.split", axis=-1)

    turned = f"{node.output[0]}.turned"
    return [
        split(sine, sine),
        helper.make_node("Neg", [f"{sine}.low"], [f"{sine}.negative"], f"{sine}.neg"),
        helper.make_node(
            "Concat", [f"{sine}.negative", f"{sine}.high"], [f"{sine}.signed"], f"{sine}.concat", axis=-1
        ),
        split(found["x"], turned),
        helper.make_node(
            "Concat", [f"{turned}.high", f"{turned}.low"], [turned], f"{turned}.concat", axis=-1
        ),
        helper.make_node("Mul", [turned, f"{sine}.signed"], node.output, node.name),
    ]


def grouped_queries(traced: Traced, node: NodeProto) -> list[NodeProto]:
    """Let the queries that share keys and values multiply them together, as rows of one head, where the
    exporter repeats keys and values for each.
    """

    def repeated(name: str) -> Pattern:
        return (f"many {name}:Reshape", ("Expand", ("Unsqueeze", name, f"axis of {name}"), "wide"), "shape")

    keys = ("Mul", ("turned:Transpose", repeated("keys")), "scale")
    scores = ("Add", ("MatMul", ("Mul", "queries", "scale"), keys), "mask")
    found = traced.find(node.output[0], ("MatMul", ("weights:Softmax", scores), repeated("values")))
    if not found or traced.attribute(found["turned"], "perm") != [0, 1, 3, 2]:
        return []
    dims = {name: traced.dims(found[name]) for name in ("queries", "keys", "values", "mask")}
    axes = [traced.constant(found[f"axis of {name}"]) for name in ("keys", "values")]
    queries, few, mask = dims["queries"], dims["keys"], dims["mask"]
    if axes != [[2], [2]] or not queries or not few or not mask or dims["values"] != few or mask[1] != 1:
        return []
    heads, width, groups = queries[1], queries[3], few[1]
    if not isinstance(heads, int) or not isinstance(width, int) or not isinstance(groups, int):
        return []
    out, own = node.output[0], f"{found['mask']}.{heads // groups} times"

    def made(operator: str, inputs: Sequence[str], name: str, **attributes: Any) -> NodeProto:  # noqa: ANN401
        return helper.make_node(operator, inputs, [name], f"{name}.node", **attributes)

    return [
        made("Concat", [found["mask"]] * (heads // groups), own, axis=2),
        made("Reshape", [found["queries"], traced.integers(0, groups, -1, width)], f"{out}.queries"),
        made("Mul", [f"{out}.queries", found["scale"]], f"{out}.scaled"),
        made("Transpose", [found["keys"]], f"{out}.turned", perm=[0, 1, 3, 2]),
        made("Mul", [f"{out}.turned", found["scale"]], f"{out}.keys"),
        made("MatMul", [f"{out}.scaled", f"{out}.keys"], f"{out}.products"),
        made("Add", [f"{out}.products", own], f"{out}.scores"),
        made("Softmax", [f"{out}.scores"], f"{out}.weights", axis=-1),
        made("MatMul", [f"{out}.weights", found["values"]], f"{out}.groups"),
        made("Reshape", [f"{out}.groups", traced.integers(0, heads, -1, width)], out),
    ]


def same_shape(traced: Traced, node: NodeProto) -> list[NodeProto]:
    """Leave out a Reshape before a Transpose that changes nothing."""
    found = traced.find(node.output[0], ("Transpose", ("shaped:Reshape", "x", "shape")))
    if not found or not (dims := traced.dims(found["x"])) or dims != traced.dims(found["shaped"]):
        return []
    return [_copy(node, [found["x"]], node)]


def _copy(node: NodeProto, inputs: Sequence[str], instead: NodeProto) -> NodeProto:
    """Return a node that does what `node` does, with other inputs, and makes what `instead` makes."""
    copy = NodeProto()
    copy.CopyFrom(node)
    copy.name, copy.input[:], copy.output[:] = instead.name, inputs, instead.output
    return copy


RULES: Sequence[Rule] = (
    softmax,
    rms_norm,
    transposed_keys,
    rotation,
    grouped_queries,
    same_shape,
)
