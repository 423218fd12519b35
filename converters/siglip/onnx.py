"""SigLIP as three ONNX models: each tower with what it pools, and both with their similarities. Named as
optimum and transformers.js have them.
"""

import torch
from torch import Tensor, nn

from converters.clip.onnx import IMAGES, TEXTS, TOKENS, with_features
from converters.siglip.names import BIAS, SCALE
from epmq_export.models.family import Family
from epmq_export.models.specs import OnnxSpec


def vision_spec(tower: Family, side: int) -> OnnxSpec:
    """Return the image tower: pixel_values float32 [batch, 3, side, side] -> pooler_output [batch, width],
    last_hidden_state [batch, patches, width].
    """
    return OnnxSpec(
        parts=with_features(tower.blocks, "pixel_values", "pooler_output"),
        # Two of each: the exporter takes an axis of length 0 or 1 for a constant.
        example={"pixel_values": torch.zeros(2, 3, side, side)},
        inputs={"pixel_values": IMAGES},
        outputs={"last_hidden_state": IMAGES, "pooler_output": IMAGES},
        towers=[tower],
    )


def text_spec(tower: Family) -> OnnxSpec:
    """Return the text tower: input_ids int64 [batch, sequence], padded to its longest -> pooler_output
    [batch, width of the pictures], last_hidden_state [batch, sequence, width].
    """
    return OnnxSpec(
        parts=with_features(tower.blocks, "input_ids", "pooler_output"),
        example={"input_ids": torch.ones(2, 3, dtype=torch.int64)},
        inputs={"input_ids": TOKENS},
        outputs={"last_hidden_state": TOKENS, "pooler_output": TEXTS},
        towers=[tower],
    )


def scale_and_bias() -> nn.Module:
    """Return the module of SigLIP's similarities."""
    module = nn.Module()
    for name in (SCALE, BIAS):
        module.register_parameter(name, nn.Parameter(torch.empty(1, device="meta"), requires_grad=False))
    return module


def scored(module: nn.Module, products: Tensor) -> Tensor:
    """Return SigLIP's similarities of products, before the sigmoid."""
    return module.get_parameter(SCALE).exp() * products + module.get_parameter(BIAS)
