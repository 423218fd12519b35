"""The tracing of parts: those that are alike once, and each with its own weights."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import onnxruntime
import pytest
import torch
from onnx import ModelProto, numpy_helper
from torch import Tensor, nn

from epmq_export.errors import InputError
from epmq_export.models.specs import OnnxPart, OnnxSpec
from epmq_export.tensors.packed import Packed
from formats.onnx import trace as tracing
from formats.onnx.trace import trace

pytestmark = pytest.mark.usefixtures("traced_anew")

WIDTH, DEPTH = 4, 5


class Layer(nn.Module):
    """A layer that knows its number, as the library's do, and whether it turns its input's sign."""

    def __init__(self, index: int, turned: bool) -> None:
        super().__init__()
        self.layer_idx, self.turned = index, turned
        self.linear = nn.Linear(WIDTH, WIDTH)

    def forward(self, hidden: Tensor, mask: Tensor) -> Tensor:
        result: Tensor = self.linear(-hidden if self.turned else hidden)
        return hidden + mask.float()[..., None] * result


def layer(index: int, turned: bool) -> Layer:
    with torch.device("meta"):
        return Layer(index, turned)


def layers_spec(turned: Callable[[int], bool], like: str | None = "layer") -> OnnxSpec:
    """Return a model of layers that share the cast of a mask, each with an output of its own."""
    tokens = {0: "batch", 1: "tokens"}
    parts = [
        OnnxPart(
            build=lambda index=index: layer(index, turned(index)),  # type: ignore[misc]
            prefix=f"layers.{index}.",
            run=lambda module, hidden, mask: (module(hidden, mask), hidden.sum(-1)),
            reads=[f"hidden.{index}", "mask"],
            makes=[f"hidden.{index + 1}", f"sum.{index}"],
            like=like,
        )
        for index in range(DEPTH)
    ]
    last = OnnxPart(
        run=lambda module, hidden, mask: (hidden.sum(1),),
        reads=[f"hidden.{DEPTH}", "mask"],
        makes=["sums"],
    )
    return OnnxSpec(
        parts=[*parts, last],
        example={"hidden.0": torch.zeros(2, 3, WIDTH), "mask": torch.ones(2, 3, dtype=torch.int64)},
        inputs={"hidden.0": tokens, "mask": tokens},
        outputs={"sums": {0: "batch"}, **{f"sum.{index}": tokens for index in range(DEPTH)}},
        towers=[],
    )


def filled(model: ModelProto, weights: list[str], values: dict[str, Tensor]) -> bytes:
    for name in weights:
        model.graph.initializer.append(numpy_helper.from_array(values[name].numpy(), name))
    return model.SerializeToString()


@pytest.mark.parametrize(
    ("turned", "exported"),
    [(lambda index: False, 1), (lambda index: index in (1, 3), 2), (lambda index: index == 4, 2)],
)
def test_a_model_of_repeated_parts_computes_what_they_compute(
    turned: Callable[[int], bool], exported: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    kinds: list[int] = []
    kept = tracing._Short.__init__

    def counted(self: Any, steps: Any, inputs: Any) -> None:
        kinds.append(sum(step.first is None and step.module.__class__ is Layer for step in steps))
        kept(self, steps, inputs)

    monkeypatch.setattr(tracing._Short, "__init__", counted)
    torch.manual_seed(0)
    layers = [Layer(index, turned(index)) for index in range(DEPTH)]
    state = {
        f"layers.{i}.{name}": value
        for i, each in enumerate(layers)
        for name, value in each.state_dict().items()
    }
    model, weights = trace(
        layers_spec(turned), checkpoint({name: tuple(value.shape) for name, value in state.items()})
    )
    assert kinds == [exported]
    assert weights == sorted(state)
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)
    assert [node.op_type for node in model.graph.node].count("Cast") == 1  # of the mask, which all read
    hidden, mask = torch.randn(3, 4, WIDTH), torch.tensor([[1, 1, 0, 0], [1, 1, 1, 1], [0, 1, 1, 0]])
    expected: dict[str, Tensor] = {}
    with torch.no_grad():
        at = hidden
        for index, each in enumerate(layers):
            expected[f"sum.{index}"], at = at.sum(-1), each(at, mask)
    expected["sums"] = at.sum(1)
    session = onnxruntime.InferenceSession(filled(model, weights, state))
    names = [value.name for value in session.get_outputs()]
    assert names == ["sums", *(f"sum.{index}" for index in range(DEPTH))]
    found = session.run(names, {"hidden.0": hidden.numpy(), "mask": mask.numpy()})
    for name, value in zip(names, found, strict=True):
        np.testing.assert_allclose(value, expected[name].numpy(), rtol=1e-5, atol=1e-5)


def checkpoint(shapes: dict[str, tuple[int, ...]]) -> Packed:
    """Return what the tracing reads of a packed checkpoint: its place, and names and shapes of tensors."""
    return cast(
        Packed, SimpleNamespace(directory="packed", names=lambda: [*shapes], shape=shapes.__getitem__)
    )


def test_a_tensor_that_is_missing_or_of_another_shape_is_named() -> None:
    shapes = {
        f"layers.{i}.linear.{name}": (WIDTH,) * rank
        for i in range(DEPTH)
        for name, rank in (("weight", 2), ("bias", 1))
    }
    spec = layers_spec(lambda index: False)
    with pytest.raises(
        InputError,
        match=r"packed: tensor layers\.3\.linear\.bias has shape \[5\], expected \[4\] by config\.json",
    ):
        trace(spec, checkpoint({**shapes, "layers.3.linear.bias": (5,)}))
    del shapes["layers.4.linear.weight"]
    with pytest.raises(
        InputError, match=r"packed: the exported model needs layers\.4\.linear\.weight, which"
    ):
        trace(spec, checkpoint(shapes))
