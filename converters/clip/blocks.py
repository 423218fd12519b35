"""The blocks of CLIP's two towers."""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers.models.clip.modeling_clip import CLIPEncoderLayer, CLIPTextEmbeddings, CLIPVisionEmbeddings

from converters.shared.config import Config
from converters.shared.row_weights import first_read
from epmq_export.models.family import Batch
from epmq_export.models.shapes import shapes_alone

VISION, TEXT = "vision_model", "text_model"


# What the last of a text's tokens is read by, with this id in old configs: by its place, the highest id, and
# not by the id itself.
OLD_END = 2


_LAYER_STEPS = (
    ("layer_norm1",),
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.out_proj",),
    ("layer_norm2",),
    ("mlp.fc1",),
    ("mlp.fc2",),
)


@dataclass(frozen=True)
class VisionStem:
    """Patches, class token and positions, normalised."""

    config: Config
    name: str = f"{VISION}.embeddings"
    prefix: str = f"{VISION}."
    steps: tuple[tuple[str, ...], ...] = (("pre_layrnorm",),)

    def build(self) -> nn.Module:
        with shapes_alone():
            module = nn.Module()
            module.embeddings = CLIPVisionEmbeddings(self.config)
            module.pre_layrnorm = nn.LayerNorm(self.config.hidden_size, eps=self.config.layer_norm_eps)
            return module.eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        made: Any = module.embeddings
        patches = made.patch_embedding(batch["pixel_values"]).flatten(2).transpose(1, 2)
        classes = made.class_embedding.expand(patches.shape[0], 1, -1)
        # The module's own index of positions has no data, because it was built on the meta device.
        result: Tensor = module.get_submodule("pre_layrnorm")(
            torch.cat((classes, patches), 1) + made.position_embedding.weight
        )
        return result

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        return torch.ones(shape)


@dataclass(frozen=True)
class Layer:
    """One transformer layer, normalised before each part. In the text tower a token sees those before it."""

    config: Config
    tower: str
    index: int
    reads_class_only: bool = False
    """Whether this is the last layer of the image tower, where only keys and values of the other tokens reach
    the output.
    """

    steps: tuple[tuple[str, ...], ...] = _LAYER_STEPS

    @property
    def name(self) -> str:
        return f"{self.tower}.encoder.layers.{self.index}"

    @property
    def prefix(self) -> str:
        return f"{self.name}."

    def build(self) -> nn.Module:
        with shapes_alone():
            return CLIPEncoderLayer(self.config).eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        result: Tensor = module(hidden, attention_mask=None, is_causal=self.tower == TEXT)
        return result

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        weights = torch.ones(shape)
        # The norm before keys and values serves them too.
        if self.reads_class_only and not {"self_attn.k_proj", "layer_norm1"} & set(step):
            weights = first_read(weights)
        return weights


@dataclass(frozen=True)
class VisionHead:
    """The class token, normalised and projected to the space of the texts: [batch, 1, projection_dim]."""

    config: Config
    name: str = f"{VISION}.head"
    prefix: str = ""
    steps: tuple[tuple[str, ...], ...] = ((f"{VISION}.post_layernorm",),)

    def build(self) -> nn.Module:
        with shapes_alone():
            module, tower = nn.Module(), nn.Module()
            tower.post_layernorm = nn.LayerNorm(self.config.hidden_size, eps=self.config.layer_norm_eps)
            module.add_module(VISION, tower)
            module.visual_projection = nn.Linear(
                self.config.hidden_size, self.config.projection_dim, bias=False
            )
            return module.eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        assert hidden is not None
        result: Tensor = module.get_submodule("visual_projection")(
            module.get_submodule(f"{VISION}.post_layernorm")(hidden[:, :1])
        )
        return result

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        return torch.ones(shape)


@dataclass(frozen=True)
class TextStem:
    """Tokens and positions, added."""

    config: Config
    name: str = f"{TEXT}.embeddings"
    prefix: str = f"{TEXT}.embeddings."
    steps: tuple[tuple[str, ...], ...] = ()

    def build(self) -> nn.Module:
        with shapes_alone():
            return CLIPTextEmbeddings(self.config).eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        made: Any = module
        tokens: Tensor = made.token_embedding(batch["input_ids"])
        result: Tensor = tokens + made.position_embedding.weight[: tokens.shape[1]]
        return result

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        return torch.ones(shape)


@dataclass(frozen=True)
class TextHead:
    """The token that ends a text, normalised and projected: [batch, 1, projection_dim]."""

    config: Config
    name: str = f"{TEXT}.head"
    prefix: str = ""
    steps: tuple[tuple[str, ...], ...] = ()

    def build(self) -> nn.Module:
        with shapes_alone():
            module, tower = nn.Module(), nn.Module()
            tower.final_layer_norm = nn.LayerNorm(self.config.hidden_size, eps=self.config.layer_norm_eps)
            module.add_module(TEXT, tower)
            module.text_projection = nn.Linear(
                self.config.hidden_size, self.config.projection_dim, bias=False
            )
            return module.eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        assert hidden is not None
        ids = batch["input_ids"]
        end: int = self.config.eos_token_id
        last = (ids if end == OLD_END else (ids == end).int()).argmax(1)
        read = hidden[torch.arange(hidden.shape[0], device=hidden.device), last][:, None]
        result: Tensor = module.get_submodule("text_projection")(
            module.get_submodule(f"{TEXT}.final_layer_norm")(read)
        )
        return result

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        return torch.ones(shape)
