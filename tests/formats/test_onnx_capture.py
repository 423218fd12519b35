"""What the exporter is given: operators that it translates as they are, to the graph that it makes itself."""

import numpy as np
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.export import Dim, ExportedProgram
from torch.nn import functional as F

from formats.onnx import trace
from formats.onnx.capture import captured

DYNAMIC = ({0: Dim.DYNAMIC, 1: Dim.DYNAMIC}, {0: Dim.DYNAMIC, 1: Dim.DYNAMIC})


class Every(nn.Module):
    """A module with every operator that another one stands for."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(4, 4)
        self.scale = torch.tensor(0.5, dtype=torch.float64)

    def forward(self, *given: Tensor) -> Tensor:
        hidden, mask = given
        hidden.erfinv()  # Nobody reads it, so that it may be of any operator.
        seen = (((mask >= 1) & (mask[:, :1] >= 1)) | (mask[:, -1:] >= 1)).to(torch.float32)
        turned = F.dropout(hidden, 0.5, training=False).transpose(1, 2).contiguous()
        turned = turned + (hidden @ self.linear.weight.T).transpose(1, 2)
        scale = self.scale.to(device=hidden.device, dtype=torch.float32)
        return F.dropout(self.linear(turned.transpose(1, 2)).square() * scale + seen[..., None], 0.1, False)


class Other(nn.Module):
    """A module with an operator that is not known here."""

    def forward(self, *given: Tensor) -> Tensor:
        hidden, mask = given
        return torch.erfinv(hidden) * mask[..., None]


def inputs(device: str) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(2, 3, 4, generator=generator)
    return hidden.to(device), torch.tensor([[1, 1, 0], [0, 1, 1]]).to(device)


def translated(program: ExportedProgram) -> bytes:
    with trace._quiet():
        made = torch.onnx.export(program, opset_version=trace.OPSET, dynamo=True, verbose=False)
    assert made is not None
    content: bytes = made.model_proto.SerializeToString()
    return content


def computed(content: bytes) -> NDArray[np.float32]:
    session = onnxruntime.InferenceSession(content)
    names = [value.name for value in session.get_inputs()]
    (found,) = session.run(None, dict(zip(names, (value.numpy() for value in inputs("cpu")), strict=True)))
    return np.asarray(found)


@pytest.mark.usefixtures("traced_anew")
def test_what_is_replaced_computes_what_the_exporter_makes_of_it() -> None:
    torch.manual_seed(0)
    module = Every().eval()
    with trace._quiet():
        program = captured(module, inputs("cpu"), DYNAMIC)
        own = torch.export.export(module, inputs("cpu"), dynamic_shapes=(DYNAMIC,), strict=False)
    assert "run_decompositions" in vars(program)
    found = computed(translated(program))
    np.testing.assert_array_equal(found, computed(translated(own)))
    with torch.no_grad():
        np.testing.assert_allclose(found, module(*inputs("cpu")).numpy(), rtol=1e-5, atol=1e-6)


def test_a_program_of_other_operators_is_left_to_the_exporter() -> None:
    with trace._quiet():
        program = captured(Other(), inputs("meta"), DYNAMIC)
    assert "run_decompositions" not in vars(program)
