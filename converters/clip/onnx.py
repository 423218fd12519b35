"""CLIP as modules, for export: the towers' own blocks in a row, under their canonical names.

They run the same blocks as the reference, so that only the exporter can make an exported graph differ.
"""

from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn.functional import normalize

from converters.shared.blocks import Blocks
from epmq_export.models.family import Block
from epmq_export.tensors.source import TensorSource


class VisionTower(Blocks):
    """A module from pixel_values, float32 [batch, 3, side, side], to image_embeds [batch, projection_dim] and
    last_hidden_state [batch, patches + 1, width].
    """

    def __init__(self, blocks: Sequence[Block], source: TensorSource) -> None:
        super().__init__(source, blocks)
        self._tower = tuple(blocks)

    def forward(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        hidden, features = self.through(self._tower, {"pixel_values": pixel_values})
        return features[:, 0], hidden


class TextTower(Blocks):
    """A module from input_ids, int64 [batch, sequence], to text_embeds [batch, projection_dim] and
    last_hidden_state [batch, sequence, width].
    """

    def __init__(self, blocks: Sequence[Block], source: TensorSource) -> None:
        super().__init__(source, blocks)
        self._tower = tuple(blocks)

    def forward(self, input_ids: Tensor) -> tuple[Tensor, Tensor]:
        hidden, features = self.through(self._tower, {"input_ids": input_ids})
        return features[:, 0], hidden


class Joint(Blocks):
    """A module from the inputs of both towers to logits_per_image [images, texts], logits_per_text [texts,
    images], text_embeds and image_embeds, of length 1 as in CLIPModel.
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
