"""The blocks of SigLIP's two towers."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import linear, scaled_dot_product_attention
from transformers.models.siglip.modeling_siglip import (
    SiglipEncoderLayer,
    SiglipMultiheadAttentionPoolingHead,
    SiglipTextEmbeddings,
    SiglipVisionEmbeddings,
)

from converters.clip import blocks as clip
from converters.shared.config import Config
from converters.siglip.names import TEXT, VISION
from epmq_export.models.family import Batch
from epmq_export.models.shapes import shapes_alone


class _Evenly:
    """A block whose rows count alike."""

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        return torch.ones(shape)


@dataclass(frozen=True)
class VisionStem(_Evenly):
    """Patches and their positions, added. Nothing in it is calibrated."""

    config: Config
    name: str = f"{VISION}.embeddings"
    prefix: str = f"{VISION}.embeddings."
    steps: tuple[tuple[str, ...], ...] = ()

    def build(self) -> nn.Module:
        with shapes_alone():
            return SiglipVisionEmbeddings(self.config).eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        made: Any = module
        patches: Tensor = made.patch_embedding(batch["pixel_values"]).flatten(2).transpose(1, 2)
        # The module's own index of positions has no data, because it was built on the meta device.
        result: Tensor = patches + made.position_embedding.weight
        return result


@dataclass(frozen=True)
class TextStem(clip.TextStem):
    """Tokens and positions, added."""

    def build(self) -> nn.Module:
        with shapes_alone():
            return SiglipTextEmbeddings(self.config).eval()


@dataclass(frozen=True)
class Layer(_Evenly, clip.Layer):
    """One transformer layer, normalised before each part. In both towers a token sees all."""

    def build(self) -> nn.Module:
        with shapes_alone():
            return SiglipEncoderLayer(self.config).eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        result: Tensor = module(hidden, attention_mask=None)
        return result


@dataclass(frozen=True)
class Norm(_Evenly):
    """Every token, normalised, which transformers calls the last hidden state."""

    config: Config
    tower: str
    prefix: str = ""

    @property
    def name(self) -> str:
        return f"{self.tower}.{'final_layer_norm' if self.tower == TEXT else 'post_layernorm'}"

    @property
    def steps(self) -> tuple[tuple[str, ...], ...]:
        return ((self.name,),)

    def build(self) -> nn.Module:
        tower, _, norm = self.name.partition(".")
        with shapes_alone():
            made = nn.LayerNorm(self.config.hidden_size, eps=self.config.layer_norm_eps)
        return nn.ModuleDict({tower: nn.ModuleDict({norm: made})}).eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        result: Tensor = module.get_submodule(self.name)(hidden)
        return result


@dataclass(frozen=True)
class VisionHead(_Evenly):
    """What one query, the probe, finds in all patches, and a feed-forward part: [batch, 1, width]."""

    config: Config
    name: str = f"{VISION}.head"
    prefix: str = f"{VISION}.head."
    steps: tuple[tuple[str, ...], ...] = (
        ("attention.out_proj",),
        ("layernorm",),
        ("mlp.fc1",),
        ("mlp.fc2",),
    )

    def build(self) -> nn.Module:
        with shapes_alone():
            return SiglipMultiheadAttentionPoolingHead(self.config).eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        assert hidden is not None
        made: Any = module
        # PyTorch's own attention reads the weights of its linears without calling them.
        attention, width = made.attention, hidden.shape[2]
        weight, bias = attention.in_proj_weight, attention.in_proj_bias
        probe = linear(made.probe, weight[:width], bias[:width]).expand(hidden.shape[0], -1, -1)
        keys, values = linear(hidden, weight[width:], bias[width:]).chunk(2, 2)
        query, key, value = (self._by_heads(each) for each in (probe, keys, values))
        found = scaled_dot_product_attention(query, key, value)
        pooled: Tensor = attention.out_proj(found.transpose(1, 2).flatten(2))
        result: Tensor = pooled + made.mlp(made.layernorm(pooled))
        return result

    def _by_heads(self, value: Tensor) -> Tensor:
        """Return [batch, heads, length, width of a head] of [batch, length, width]."""
        batch, length, _ = value.shape
        return value.reshape(batch, length, self.config.num_attention_heads, -1).transpose(1, 2)


@dataclass(frozen=True)
class TextHead(_Evenly):
    """The last place of a text, mostly one that pads, brought to the pictures' width: [batch, 1, width]."""

    config: Config
    name: str = f"{TEXT}.head"
    prefix: str = f"{TEXT}."
    steps: tuple[tuple[str, ...], ...] = ()

    def build(self) -> nn.Module:
        with shapes_alone():
            head = nn.Linear(self.config.hidden_size, self.config.projection_size)
        return nn.ModuleDict({"head": head}).eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        assert hidden is not None
        result: Tensor = module.get_submodule("head")(hidden[:, -1:])
        return result
