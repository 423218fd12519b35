"""CLIP as three ONNX models: each tower with its projection, and both with their similarities. Named as
optimum and transformers.js have them.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from converters.shared.blocks import Blocks, Tower
from epmq_export.models.family import Batch, Block, Family
from epmq_export.models.specs import OnnxSpec
from epmq_export.tensors.source import TensorSource

IMAGES, TEXTS = {0: "image_batch_size"}, {0: "text_batch_size"}
TOKENS = {**TEXTS, 1: "sequence_length"}


class Joint(Blocks):
    """Both towers -> logits_per_image [images, texts], logits_per_text [texts, images], text_embeds and
    image_embeds, of length 1 as CLIPModel has them.
    """

    def __init__(self, vision: Sequence[Block], text: Sequence[Block], source: TensorSource) -> None:
        super().__init__(source, vision, text)
        self._vision, self._text = tuple(vision), tuple(text)
        self.logit_scale = nn.Parameter(source.load("logit_scale").float(), requires_grad=False)

    def forward(self, input_ids: Tensor, pixel_values: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        _, images = self.through(self._vision, {"pixel_values": pixel_values})
        _, texts = self.through(self._text, {"input_ids": input_ids})
        images, texts = normalize(images[:, 0], dim=-1), normalize(texts[:, 0], dim=-1)
        logits = self.logit_scale.exp() * images @ texts.T
        return logits, logits.T, texts, images


def vision_spec(tower: Family, side: int) -> OnnxSpec:
    """Return the image tower: pixel_values float32 [batch, 3, side, side] -> image_embeds [batch,
    projection_dim], last_hidden_state [batch, patches + 1, width].
    """
    return OnnxSpec(
        build=lambda source: Tower(source, tower.blocks, ["pixel_values"], _features),
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
        build=lambda source: Tower(source, tower.blocks, ["input_ids"], _features),
        example={"input_ids": torch.ones(2, 3, dtype=torch.int64)},
        inputs={"input_ids": TOKENS},
        outputs={"text_embeds": TEXTS, "last_hidden_state": TOKENS},
        towers=[tower],
    )


def joint_spec(vision: Family, text: Family, side: int) -> OnnxSpec:
    """Return both towers, which give outputs of length 1, with their similarities."""
    return OnnxSpec(
        build=lambda source: Joint(vision.blocks, text.blocks, source),
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


def _features(before: Tensor, hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return a tower's projected features, and the hidden state that its head has read."""
    return hidden[:, 0], before
