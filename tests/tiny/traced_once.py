"""Traces of torch's exporter that many tests ask for: each kind of graph is traced once in a run of them.

Tiny models of one config are written by dozens of tests, and a trace takes seconds whatever the size. What
decides a trace is what the parts compute, so that is the key: the operations that they run on tensors without
storage, with all their arguments, which of their tensors come out, and the names of everything that the graph
names. What a part reads has its name in the whole model alone: there it depends on how many layers stand
before, and the graph does not.
"""

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch
from onnx import ModelProto
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map

from epmq_export.models.specs import OnnxSpec
from formats.onnx import trace
from tests.tiny.built_once import built_once

Exported = Callable[[OnnxSpec, Sequence[Any]], ModelProto]


exported: Exported = trace._exported
"""The function that traces anew."""


def trace_once() -> None:
    """Let `formats.onnx.trace` take a trace from the folder of this run where there is one."""
    trace._exported = _once


@cache
def translations_once() -> None:
    """Let the exporter collect once in this process, not at every trace, its translations of operators, and
    how operators without one are taken apart: they are the same each time, and take a tenth of it each.
    """
    from torch.onnx._internal.exporter import _decomp
    from torch.onnx._internal.exporter._registration import ONNXRegistry

    once = staticmethod(cache(ONNXRegistry.from_torchlib))
    ONNXRegistry.from_torchlib = once  # type: ignore[method-assign]
    collect = cache(_decomp.create_onnx_friendly_decomposition_table)

    def copied(known: Any) -> Any:
        return {**collect(frozenset(known))}  # Who takes an operator apart takes entries out.

    _decomp.create_onnx_friendly_decomposition_table = copied


@cache
def types_once() -> None:
    """Let the exporter, where it looks for types that an operator mixes, take what is known of each node, and
    run those alone that it changes. It would run all of them again, a sixth of a trace.
    """
    from torch.onnx._internal.fx.passes import type_promotion

    ran_again = torch.fx.Interpreter.run_node

    def run_node(self: Any, node: torch.fx.Node) -> Any:
        with self._set_current_node(node):
            if rule := type_promotion.get_type_promotion_rule(node, self.type_promotion_table):
                self._maybe_promote_node(node, rule)
        known = node.op == "call_function" and "val" in node.meta
        return node.meta["val"] if known else ran_again(self, node)

    type_promotion._TypePromotionInterpreter.run_node = run_node  # type: ignore[method-assign]


def _once(spec: OnnxSpec, steps: Sequence[Any]) -> ModelProto:
    def build(folder: Path) -> None:
        translations_once()
        types_once()
        (folder / "graph.onnx").write_bytes(exported(spec, steps).SerializeToString())

    found = built_once(f"trace-{_key(spec, steps)}", build)
    return ModelProto.FromString((found / "graph.onnx").read_bytes())


def _key(spec: OnnxSpec, steps: Sequence[Any]) -> str:
    firsts = [step for step in steps if step.first is None]
    read = {name for step in firsts for name in step.part.reads}
    inputs = [name for name in spec.inputs if name in read]
    named = [(name, spec.inputs[name], spec.example[name].dtype) for name in inputs]
    named += [(step.part.makes, step.weights) for step in firsts]
    operations = _Operations()
    with torch.no_grad(), operations:
        made = trace._Short(steps, inputs)(*(spec.example[name].to("meta") for name in inputs))
    told = operations.told, [operations.number(value) for value in made]
    return hashlib.sha256(repr((named, told)).encode()).hexdigest()


class _Operations(TorchDispatchMode):
    """It tells what runs, each tensor by its number: the first that was seen is 0."""

    def __init__(self) -> None:
        super().__init__()
        self.told: list[object] = []
        self._seen: list[torch.Tensor] = []

    def __torch_dispatch__(
        self,
        function: Any,
        types: Any,
        arguments: tuple[Any, ...] = (),
        named: dict[str, Any] | None = None,
    ) -> Any:
        given = tree_map(self.number, (arguments, named or {}))
        made = function(*arguments, **(named or {}))
        self.told.append((str(function), given, tree_map(self.number, made)))
        return made

    def number(self, value: Any) -> Any:
        if not isinstance(value, torch.Tensor):
            return value
        for number, seen in enumerate(self._seen):
            if seen is value:
                return number
        self._seen.append(value)
        held = None if value.is_meta else value.tolist()
        return len(self._seen) - 1, tuple(value.shape), value.dtype, held
