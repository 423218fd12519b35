"""The blocks of ModernBERT: embeddings, transformer layers that are normalised before each part and look at
all tokens or at those near by, and a last norm.
"""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from converters.shared.config import Config
from converters.shared.ggml_gelu import GatedGelu
from converters.shared.library import module_class
from converters.shared.row_weights import first_read
from epmq_export.models.family import Batch
from epmq_export.models.shapes import shapes_alone

MODEL, SLIDING = "modernbert", "sliding_attention"


@dataclass(frozen=True)
class Stem:
    """Token embeddings, normalised."""

    config: Config
    name: str = "embeddings"
    prefix: str = "embeddings."
    steps: tuple[tuple[str, ...], ...] = (("norm",),)

    def build(self) -> nn.Module:
        with shapes_alone():
            return module_class(MODEL, "ModernBertEmbeddings")(self.config).eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        result: Tensor = module(input_ids=batch["input_ids"])
        return result

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        return batch["attention_mask"].float()


@dataclass(frozen=True)
class Layer:
    """One transformer layer. The first has no norm before its attention, since the embeddings end in one."""

    config: Config
    index: int
    rotary: nn.Module = field(compare=False, repr=False)
    """The whole model's, its frequencies on the CPU."""

    reads_first_only: bool
    """Whether this is the last layer under CLS pooling, where only keys and values of the other tokens reach
    the output.
    """

    as_ggml: bool
    """Whether GELU is computed as in ggml."""

    @property
    def name(self) -> str:
        return f"layers.{self.index}"

    @property
    def prefix(self) -> str:
        return f"{self.name}."

    @property
    def steps(self) -> tuple[tuple[str, ...], ...]:
        first = [] if self.index == 0 else ["attn_norm"]
        return tuple((path,) for path in (*first, "attn.Wqkv", "attn.Wo", "mlp_norm", "mlp.Wi", "mlp.Wo"))

    def build(self) -> nn.Module:
        with shapes_alone():
            module = module_class(MODEL, "ModernBertEncoderLayer")(self.config, self.index)
            if self.as_ggml:
                module.set_submodule("mlp.act", GatedGelu())
            return module.eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        assert hidden is not None
        attention = self.config.layer_types[self.index]
        positions = torch.arange(hidden.shape[1], device=hidden.device)
        seen = batch["attention_mask"][:, None, None].bool()
        if attention == SLIDING:
            apart = (positions[:, None] - positions[None]).abs()
            # Every token sees itself: one that pads may have no other near by, and a softmax needs some.
            seen = (seen & (apart <= self.config.sliding_window)[None, None]) | (apart == 0)[None, None]
        result: Tensor = module(
            hidden,
            attention_mask=seen,
            position_embeddings=self.rotary(hidden, positions[None], attention),
        )
        return result

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        weights = batch["attention_mask"].float()
        # One linear makes queries, keys and values, so it and the norm before it serve every token.
        if self.reads_first_only and step not in (("attn_norm",), ("attn.Wqkv",)):
            weights = first_read(weights)
        return weights


@dataclass(frozen=True)
class Last:
    """Every token, normalised, which transformers calls the last hidden state."""

    config: Config
    reads_first_only: bool
    name: str = "final_norm"
    prefix: str = ""
    steps: tuple[tuple[str, ...], ...] = (("final_norm",),)

    def build(self) -> nn.Module:
        config = self.config
        with shapes_alone():
            module = nn.Module()
            module.final_norm = nn.LayerNorm(config.hidden_size, eps=config.norm_eps, bias=config.norm_bias)
            return module.eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        result: Tensor = module.get_submodule("final_norm")(hidden)
        return result

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        weights = batch["attention_mask"].float()
        return first_read(weights) if self.reads_first_only else weights
