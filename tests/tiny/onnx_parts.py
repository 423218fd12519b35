"""The parts of an ONNX model, run in torch."""

from collections.abc import Mapping

import torch
from torch import Tensor

from epmq_export.models.specs import OnnxSpec
from epmq_export.tensors.source import TensorSource


@torch.no_grad()
def run_parts(spec: OnnxSpec, source: TensorSource, inputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return all values of a model by their names, given its inputs, with the source's weights in float32."""
    values = dict(inputs)
    for part in spec.parts:
        module = part.build().eval()
        state = {path: source.load(f"{part.prefix}{path}").float() for path, _ in module.named_parameters()}
        module.load_state_dict(state, strict=False, assign=True)
        values |= zip(part.makes, part.run(module, *(values[name] for name in part.reads)), strict=True)
    return values
