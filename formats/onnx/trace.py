"""The graph of a model's parts. torch's exporter is given each kind of part once, and its nodes are repeated
for the parts that are alike, as the layers of a model are.

What is exported is a short model: all parts but those that are like an earlier one. The exporter gets shapes
alone and never sees a weight, so that it can neither fold nor merge two that happen to be equal. Then every
part, in the order of the data, gets the nodes between what it reads and what it makes. Nodes that do not
depend on what is a part's own, such as those of a mask, are there once.
"""

import gc
import logging
import warnings
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import onnx_ir
import torch
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper
from torch import Tensor, nn

from epmq_export.errors import InputError
from epmq_export.models.specs import OnnxPart, OnnxSpec
from epmq_export.tensors.packed import Packed
from formats.onnx.capture import captured
from formats.onnx.rewrite import rewrite

OPSET = 21  # This is the first opset with 4-bit types and with blocks in DequantizeLinear.
_TYPES = {torch.int64: TensorProto.INT64, torch.float32: TensorProto.FLOAT}


@dataclass(eq=False)
class _Step:
    """A part among those of its model."""

    part: OnnxPart
    module: nn.Module
    first: "_Step | None" = None
    """The step that is exported for this one, or None where it is exported itself."""

    @property
    def exported(self) -> "_Step":
        return self.first or self

    @property
    def weights(self) -> list[str]:
        """Return the canonical names of its tensors, in the module's order."""
        return [f"{self.part.prefix}{path}" for path, _ in self.module.named_parameters()]

    def likeness(self) -> object:
        """Return what is equal for steps of the same nodes: what the family says, the shapes of the weights,
        and all that the modules, which are the library's, hold in plain attributes, but the layer's number.
        """
        return (
            self.part.like,
            *((path, value.shape) for path, value in self.module.named_parameters()),
            *(
                (path, type(each), key, repr(value))
                for path, each in self.module.named_modules()
                for key, value in vars(each).items()
                if isinstance(value, str | int | float | tuple | None) and key != "layer_idx"
            ),
        )


class _Short(nn.Module):
    """The steps that are exported, as one module, which returns all that they make."""

    def __init__(self, steps: Sequence[_Step], inputs: Sequence[str]) -> None:
        super().__init__()
        self._steps, self._inputs = steps, inputs
        self.parts = nn.ModuleList(step.module for step in steps if step.first is None)

    def forward(self, *given: Tensor) -> tuple[Tensor, ...]:
        values = dict(zip(self._inputs, given, strict=True))
        made: list[Tensor] = []
        for step in self._steps:
            if step.first is None:
                found = step.part.run(step.module, *(values[name] for name in step.part.reads))
                made += found
            else:  # What stands behind it reads what is like its values.
                found = tuple(values[name] for name in step.first.part.makes)
            values |= zip(step.part.makes, found, strict=True)
        return tuple(made)


def trace(spec: OnnxSpec, packed: Packed) -> tuple[ModelProto, list[str]]:
    """Return the model, whose initializers are constants, and the canonical names of the weights that its
    nodes read, sorted.

    Raises InputError where the checkpoint lacks a tensor, or has one of another shape than the config's.
    """
    steps = _steps(spec, packed)
    model = _exported(spec, steps)
    short = model.graph
    assert not any(attribute.HasField("g") for node in short.node for attribute in node.attribute)
    nodes = _needed([*_repeated(short, steps, spec.inputs)], spec.outputs)
    read = {name for node in nodes for name in node.input}
    graph = GraphProto(name=short.name, node=nodes)
    graph.initializer.extend(value for value in short.initializer if value.name in read)
    for name, axes in spec.inputs.items():
        example = spec.example[name]
        dims = [axes.get(axis, length) for axis, length in enumerate(example.shape)]
        graph.input.append(helper.make_tensor_value_info(name, _TYPES[example.dtype], dims))
    made = {value.name: value for value in short.output}
    for step in steps:
        for name, like in zip(step.part.makes, step.exported.part.makes, strict=True):
            if name in spec.outputs:
                graph.output.add().CopyFrom(made[like])
                graph.output[-1].name = name
    graph.output.sort(key=lambda value: [*spec.outputs].index(value.name))
    short.CopyFrom(graph)
    return model, sorted(read.intersection(name for step in steps for name in step.weights))


def _steps(spec: OnnxSpec, packed: Packed) -> list[_Step]:
    steps: list[_Step] = []
    firsts: dict[object, _Step] = {}
    shapes = {name: packed.shape(name) for name in packed.names()}
    for part in spec.parts:
        step = _Step(part, part.build().eval())
        for name, value in zip(step.weights, step.module.parameters(), strict=True):
            if name not in shapes:
                raise InputError(
                    f"{packed.directory}: the exported model needs {name}, which the checkpoint does not hold"
                )
            if shapes[name] != tuple(value.shape):
                raise InputError(
                    f"{packed.directory}: tensor {name} has shape {list(shapes[name])}, expected "
                    f"{list(value.shape)} by config.json"
                )
        if part.like is not None:
            step.first = firsts.get(key := step.likeness())
            firsts.setdefault(key, step)
        steps.append(step)
    return steps


def _exported(spec: OnnxSpec, steps: Sequence[_Step]) -> ModelProto:
    """Return the short model, its weights under their canonical names."""
    model = _translated(spec, steps)
    rewrite(model.graph)
    canonical = {
        f"parts.{place}.{path}": name
        for place, step in enumerate(step for step in steps if step.first is None)
        for (path, _), name in zip(step.module.named_parameters(), step.weights, strict=True)
    }
    for node in model.graph.node:
        node.input[:] = [canonical.get(name, name) for name in node.input]
        # These are the exporter's own notes, such as stack traces with local paths: ten times what the node
        # itself takes, in each layer that repeats it.
        node.ClearField("doc_string")
        node.ClearField("metadata_props")
    return model


def _translated(spec: OnnxSpec, steps: Sequence[_Step]) -> ModelProto:
    """Return the short model as torch's exporter and its optimiser leave it, the weights as inputs."""
    firsts = [step for step in steps if step.first is None]
    read = {name for step in firsts for name in step.part.reads}
    inputs = [name for name in spec.inputs if name in read]
    dynamic = [dict.fromkeys(spec.inputs[name], torch.export.Dim.DYNAMIC) for name in inputs]
    with _quiet(), _uncollected(), _remembering_nothing():
        given = tuple(spec.example[name].to("meta") for name in inputs)
        program = torch.onnx.export(
            captured(_Short(steps, inputs), given, dynamic),
            input_names=inputs,
            output_names=[name for step in firsts for name in step.part.makes],
            opset_version=OPSET,
            dynamo=True,
            optimize=False,
            verbose=False,
        )
        assert program is not None  # With dynamo there is always a program.
        graph = program.model.graph
        # The optimiser does not touch weights that are inputs.
        for name in [name for name in graph.initializers if name.startswith("parts.")]:
            value = graph.initializers.pop(name)
            value.const_value = None
            graph.inputs.append(value)
        program.optimize()
        model: ModelProto = onnx_ir.serde.serialize_model(program.model)
    return model


def _repeated(short: GraphProto, steps: Sequence[_Step], inputs: Iterable[str]) -> Iterator[NodeProto]:
    """Yield the nodes of all steps, in the order of the data."""
    like = {name: name for name in inputs}
    for step in steps:
        like |= zip(step.part.makes, step.exported.part.makes, strict=True)
    # The names in the model of what the short model has as a step's reads, makes and weights.
    names = {step: _names(step, like) for step in steps}
    own = {step: set(step.weights) for step in steps if step.first is None}
    for step in steps:
        own[step.exported] |= {before for before, name in names[step].items() if before != name}
    shared: set[str] = set()
    for place, step in enumerate(steps):
        renamed, varying = names[step], set(own[step.exported])
        for node in _between(short, renamed, step.exported.part.makes):
            if varying.isdisjoint((*node.input, *node.output)):
                if node.output[0] not in shared:
                    yield node
                shared.update(node.output)
                continue
            varying.update(node.output)
            copy = NodeProto()
            copy.CopyFrom(node)
            for name in node.output:
                renamed.setdefault(name, f"{place}/{name}")
            copy.input[:] = [renamed.get(name, name) for name in node.input]
            copy.output[:] = [renamed[name] for name in node.output]
            copy.name = f"{place}/{node.name}"
            yield copy


def _names(step: _Step, like: Mapping[str, str]) -> dict[str, str]:
    exported, part = step.exported, step.part
    read = [like[name] for name in exported.part.reads]
    assert len({*read}) == len(read), "a part reads two values that stand for one in the short model"
    return dict(
        (
            *zip(read, part.reads, strict=True),
            *zip(exported.part.makes, part.makes, strict=True),
            *zip(exported.weights, step.weights, strict=True),
        )
    )


def _between(graph: GraphProto, ends: Collection[str], makes: Sequence[str]) -> list[NodeProto]:
    """Return the nodes that make the values `makes` out of those of `ends` and the graph's inputs."""
    wanted, found = set(makes), []
    for node in reversed(graph.node):
        if not wanted.isdisjoint(node.output):
            found.append(node)
            wanted.update(name for name in node.input if name not in ends)
    return found[::-1]


def _needed(nodes: Sequence[NodeProto], outputs: Iterable[str]) -> list[NodeProto]:
    """Return the nodes that the outputs depend on."""
    wanted, found = set(outputs), []
    for node in reversed(nodes):
        if not wanted.isdisjoint(node.output):
            found.append(node)
            wanted.update(node.input)
    return found[::-1]


@contextmanager
def _uncollected() -> Iterator[None]:
    """Do not look for garbage in this context. Tracing makes millions of small objects that live until its
    end, and looking through them takes a sixth of its time.
    """
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


@contextmanager
def _remembering_nothing() -> Iterator[None]:
    """Let torch not remember what an operator made of shapes. It hardly meets the same ones again in a trace,
    and to write them down takes nearly half of its time.
    """
    from torch._dynamo import config

    with config.patch(fake_tensor_cache_enabled=False):
        yield


@contextmanager
def _quiet() -> Iterator[None]:
    """Silence the exporter, which warns about packages that it could also use and about deprecations within
    torch.
    """
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
