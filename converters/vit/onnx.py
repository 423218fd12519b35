"""A vision transformer as one ONNX model, as optimum and transformers.js have it."""

import torch
from torch import Tensor, nn

from converters.shared.classifiers import Scored
from converters.shared.onnx import head_parts, tower_parts
from epmq_export.models.family import Family
from epmq_export.models.specs import OnnxPart, OnnxSpec

IMAGES = {0: "batch_size"}


def onnx_spec(family: Family, size: tuple[int, int], features: bool, scored: Scored | None) -> OnnxSpec:
    """Return the model: pixel_values float32 [batch, 3, height, width] -> last_hidden_state [batch, tokens,
    width], normalised; pooler_output [batch, width], its first row, whether or not the model was trained with
    a pooler; and with `features`, where the family's output is another, that as image_embeds [batch, ...].
    With classifiers it has the scores of each in place of these two.
    """

    def outputs(module: nn.Module, hidden: Tensor) -> tuple[Tensor, ...]:
        return (hidden[:, 0], *((family.output(hidden, {}),) if features else ()))

    hidden, blocks = "last_hidden_state", family.blocks
    if scored is None:
        made = ["pooler_output", *(["image_embeds"] if features else [])]
        last = [OnnxPart(run=outputs, reads=[hidden], makes=made)]
    else:
        blocks, last = blocks[:-1], head_parts(scored, [hidden])
    names = [hidden, *(name for part in last for name in part.makes)]
    return OnnxSpec(
        parts=[*tower_parts(blocks, ["pixel_values"], [hidden]), *last],
        # Two pictures: the exporter takes an axis of length 0 or 1 for a constant.
        example={"pixel_values": torch.zeros(2, 3, *size)},
        inputs={"pixel_values": IMAGES},
        outputs=dict.fromkeys(names, IMAGES),
        towers=[family],
    )
