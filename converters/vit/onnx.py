"""A vision transformer as one ONNX model, as optimum and transformers.js have it."""

import torch
from torch import Tensor, nn

from converters.shared.onnx import tower_parts
from epmq_export.models.family import Family
from epmq_export.models.specs import OnnxPart, OnnxSpec

IMAGES = {0: "batch_size"}


def onnx_spec(family: Family, size: tuple[int, int], features: bool) -> OnnxSpec:
    """Return the model: pixel_values float32 [batch, 3, height, width] -> last_hidden_state [batch, tokens,
    width], normalised; pooler_output [batch, width], its first row, whether or not the model was trained with
    a pooler; and with `features`, where the family's output is another, that as image_embeds [batch, ...].
    """

    def outputs(module: nn.Module, hidden: Tensor) -> tuple[Tensor, ...]:
        return (hidden[:, 0], *((family.output(hidden, {}),) if features else ()))

    names = ("last_hidden_state", "pooler_output", *(["image_embeds"] if features else []))
    last = OnnxPart(run=outputs, reads=names[:1], makes=names[1:])
    return OnnxSpec(
        parts=[*tower_parts(family.blocks, ["pixel_values"], names[:1]), last],
        # Two pictures: the exporter takes an axis of length 0 or 1 for a constant.
        example={"pixel_values": torch.zeros(2, 3, *size)},
        inputs={"pixel_values": IMAGES},
        outputs=dict.fromkeys(names, IMAGES),
        towers=[family],
    )
