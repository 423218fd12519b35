"""SigLIP as three ONNX models: each tower with what it pools, and both with their similarities. Named as
optimum and transformers.js have them.
"""

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from converters.clip.onnx import IMAGES, TEXTS, TOKENS
from converters.shared.onnx import tower_parts
from converters.siglip.names import BIAS, SCALE, TEXT, VISION
from epmq_export.models.family import Family
from epmq_export.models.specs import OnnxPart, OnnxSpec

_FIRST = OnnxPart(run=lambda module, hidden: (hidden[:, 0],), reads=["head"], makes=["pooler_output"])


def vision_spec(tower: Family, side: int) -> OnnxSpec:
    """Return the image tower: pixel_values float32 [batch, 3, side, side] -> pooler_output [batch, width],
    last_hidden_state [batch, patches, width].
    """
    return OnnxSpec(
        parts=[*tower_parts(tower.blocks, ["pixel_values"], ["last_hidden_state", "head"]), _FIRST],
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
        parts=[*tower_parts(tower.blocks, ["input_ids"], ["last_hidden_state", "head"]), _FIRST],
        example={"input_ids": torch.ones(2, 3, dtype=torch.int64)},
        inputs={"input_ids": TOKENS},
        outputs={"last_hidden_state": TOKENS, "pooler_output": TEXTS},
        towers=[tower],
    )


def joint_spec(vision: Family, text: Family, side: int) -> OnnxSpec:
    """Return both towers, which give outputs of length 1, with their similarities before the sigmoid."""
    return OnnxSpec(
        parts=[
            *tower_parts(vision.blocks, ["pixel_values"], ["image"], VISION),
            *tower_parts(text.blocks, ["input_ids"], ["text"], TEXT),
            OnnxPart(
                build=_scale,
                run=_similarities,
                reads=["image", "text"],
                makes=["logits_per_image", "logits_per_text", "text_embeds", "image_embeds"],
            ),
        ],
        # Three texts beside two pictures, so that the exporter does not take the two numbers for one.
        example={
            "input_ids": torch.ones(3, 4, dtype=torch.int64),
            "pixel_values": torch.zeros(2, 3, side, side),
        },
        inputs={"input_ids": TOKENS, "pixel_values": IMAGES},
        outputs={
            "logits_per_image": {0: "image_batch_size", 1: "text_batch_size"},
            "logits_per_text": {0: "text_batch_size", 1: "image_batch_size"},
            "text_embeds": TEXTS,
            "image_embeds": IMAGES,
        },
        towers=[vision, text],
    )


def _scale() -> nn.Module:
    module = nn.Module()
    for name in (SCALE, BIAS):
        module.register_parameter(name, nn.Parameter(torch.empty(1, device="meta"), requires_grad=False))
    return module


def _similarities(module: nn.Module, images: Tensor, texts: Tensor) -> tuple[Tensor, ...]:
    images, texts = normalize(images[:, 0], dim=-1), normalize(texts[:, 0], dim=-1)
    logits = module.get_parameter(SCALE).exp() * images @ texts.T + module.get_parameter(BIAS)
    return logits, logits.T, texts, images
