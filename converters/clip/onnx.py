"""CLIP as three ONNX models: each tower with its projection, and both with their similarities. Named as
optimum and transformers.js have them.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from converters.clip.blocks import TEXT, VISION
from converters.shared.onnx import tower_parts
from epmq_export.models.family import Block, Family
from epmq_export.models.specs import OnnxPart, OnnxSpec

IMAGES, TEXTS = {0: "image_batch_size"}, {0: "text_batch_size"}
TOKENS = {**TEXTS, 1: "sequence_length"}


def vision_spec(tower: Family, side: int) -> OnnxSpec:
    """Return the image tower: pixel_values float32 [batch, 3, side, side] -> image_embeds [batch,
    projection_dim], last_hidden_state [batch, patches + 1, width].
    """
    return OnnxSpec(
        parts=with_features(tower.blocks, "pixel_values", "image_embeds"),
        # Two of each: the exporter takes an axis of length 0 or 1 for a constant.
        example={"pixel_values": torch.zeros(2, 3, side, side)},
        inputs={"pixel_values": IMAGES},
        outputs={"image_embeds": IMAGES, "last_hidden_state": IMAGES},
        towers=[tower],
    )


def text_spec(tower: Family) -> OnnxSpec:
    """Return the text tower: input_ids int64 [batch, sequence] -> text_embeds [batch, projection_dim],
    last_hidden_state [batch, sequence, width].
    """
    return OnnxSpec(
        parts=with_features(tower.blocks, "input_ids", "text_embeds"),
        example={"input_ids": torch.ones(2, 3, dtype=torch.int64)},
        inputs={"input_ids": TOKENS},
        outputs={"text_embeds": TEXTS, "last_hidden_state": TOKENS},
        towers=[tower],
    )


def scale() -> nn.Module:
    """Return the module of CLIP's similarities."""
    module = nn.Module()
    module.logit_scale = nn.Parameter(torch.empty((), device="meta"), requires_grad=False)
    return module


def scaled(module: nn.Module, products: Tensor) -> Tensor:
    """Return CLIP's similarities of products."""
    return module.get_parameter("logit_scale").exp() * products


def joint_spec(
    vision: Family,
    text: Family,
    side: int,
    build: Callable[[], nn.Module] = scale,
    scores: Callable[[nn.Module, Tensor], Tensor] = scaled,
) -> OnnxSpec:
    """Return both towers, which give outputs of length 1, with their similarities: the `scores`, by the
    module that is built, of the products of pictures with texts.
    """

    def similarities(module: nn.Module, images: Tensor, texts: Tensor) -> tuple[Tensor, ...]:
        images, texts = normalize(images[:, 0], dim=-1), normalize(texts[:, 0], dim=-1)
        found = scores(module, images @ texts.T)
        return found, found.T, texts, images

    return OnnxSpec(
        parts=[
            *tower_parts(vision.blocks, ["pixel_values"], ["image"], VISION),
            *tower_parts(text.blocks, ["input_ids"], ["text"], TEXT),
            OnnxPart(
                build=build,
                run=similarities,
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


def with_features(blocks: Sequence[Block], given: str, features: str) -> list[OnnxPart]:
    """Return the parts of a tower that makes the projected features, and the hidden state that its head has
    read.
    """
    first = OnnxPart(run=lambda module, hidden: (hidden[:, 0],), reads=["head"], makes=[features])
    return [*tower_parts(blocks, [given], ["last_hidden_state", "head"]), first]
