"""The blocks of decoder language models, and what each architecture calls its parts."""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn

from converters.decoder.kinds import Kind
from converters.shared.ggml_gelu import GatedGelu
from epmq_export.models.family import Batch
from epmq_export.models.rms_norm import RmsNorm

SLIDING = "sliding_attention"
EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
Config = Any
"""One of the kinds' config classes, which share no base that has their keys."""


@dataclass(frozen=True)
class Stem:
    """The tokens' embeddings. Nothing of it is calibrated."""

    kind: Kind
    config: Config
    name: str = "embeddings"
    prefix: str = "model."
    steps: tuple[tuple[str, ...], ...] = ()

    def build(self) -> nn.Module:
        with torch.device("meta"):
            module = nn.Module()
            module.embed_tokens = nn.Embedding(self.config.vocab_size, self.config.hidden_size)
            return module.eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        result: Tensor = module.get_submodule("embed_tokens")(batch["input_ids"])
        return result * self.config.hidden_size**0.5 if self.kind.scaled else result

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        return batch["attention_mask"].float()


@dataclass(frozen=True)
class Layer:
    kind: Kind
    config: Config
    index: int
    rotary: nn.Module = field(compare=False, repr=False)
    """Of the whole model, its frequencies on the CPU."""

    as_ggml: bool
    """Whether a GELU is ggml's."""

    @property
    def name(self) -> str:
        return f"layers.{self.index}"

    @property
    def prefix(self) -> str:
        return f"model.{self.name}."

    @property
    def steps(self) -> tuple[tuple[str, ...], ...]:
        return self.kind.steps

    @property
    def _type(self) -> str | None:
        """Of the layer's attention, where the architecture has more than one."""
        return self.config.layer_types[self.index] if self.kind.name == "gemma3_text" else None

    def build(self) -> nn.Module:
        with torch.device("meta"):
            module = with_rms_norms(
                self.kind.layer(self.config, self.index), self.config.rms_norm_eps, self.kind.offset
            )
            if self.as_ggml and self.kind.name == "gemma3_text":
                module.set_submodule("mlp.act_fn", GatedGelu())
            return module.eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        assert hidden is not None
        positions = torch.arange(hidden.shape[1], device=hidden.device)
        return self.go_on(module, hidden, positions[None], positions, batch["attention_mask"], None)

    def go_on(
        self,
        module: nn.Module,
        hidden: Tensor,
        positions: Tensor,
        places: Tensor,
        attention_mask: Tensor,
        past: object | None,
    ) -> Tensor:
        """The next hidden state [batch, new, width] of tokens at `positions` [batch, new], behind those of a
        cache.

        `places` [new] is where the new tokens stand among all, which `attention_mask` [batch, all] tells from
        padding.
        """
        rotation = self.rotary(hidden, positions, *filter(None, [self._type]))
        behind = (
            places[:, None] - torch.arange(attention_mask.shape[1], device=hidden.device)[None]
        )  # how far back a token looks
        seen = behind >= 0
        if self._type == SLIDING:
            seen = seen & (behind < self.config.sliding_window)
        mask = seen[None, None] & attention_mask[:, None, None].bool()
        result: Tensor = module(
            hidden, attention_mask=mask, position_embeddings=rotation, past_key_values=past
        )
        return result

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        return batch["attention_mask"].float()


@dataclass(frozen=True)
class Head:
    """The last norm, and for the rows that are read the scores of all tokens: by the embeddings themselves,
    or by a matrix of its own.
    """

    kind: Kind
    config: Config
    tied: bool
    name: str = "head"

    @property
    def prefix(self) -> str:
        return "model." if self.tied else ""

    @property
    def steps(self) -> tuple[tuple[str, ...], ...]:
        return ((self._norm,),)

    @property
    def _norm(self) -> str:
        return "norm" if self.tied else "model.norm"

    @property
    def _scores(self) -> str:
        return "embed_tokens" if self.tied else "lm_head"

    def build(self) -> nn.Module:
        width = self.config.hidden_size
        with torch.device("meta"):
            module, inner = nn.Module(), nn.Module()
            inner.add_module("norm", RmsNorm(width, self.config.rms_norm_eps, self.kind.offset))
            if self.tied:
                module = inner
            else:
                module.add_module("model", inner)
            module.add_module(self._scores, nn.Linear(width, self.config.vocab_size, bias=False))
            return module.eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        assert hidden is not None
        return self.scores(module, hidden, batch["read"].bool())

    def scores(self, module: nn.Module, hidden: Tensor, read: Tensor | None = None) -> Tensor:
        """Of all tokens, for the rows of [batch, length, width] that are read, [rows, vocabulary], or for all
        [batch, length, vocabulary].
        """
        normalised = module.get_submodule(self._norm)(hidden)
        # Not the module's own call: in an exported model the embeddings' own module holds the weight.
        weight: Tensor = module.get_parameter(f"{self._scores}.weight")
        return nn.functional.linear(normalised if read is None else normalised[read], weight)

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        return batch["attention_mask"].float()


def with_rms_norms(module: nn.Module, eps: float, offset: float) -> nn.Module:
    """The library's own classes of norms replaced by the one that calibration knows."""
    for name, child in [*module.named_modules()]:
        if type(child).__name__.endswith("RMSNorm"):
            weight: Tensor = child.get_parameter("weight")
            module.set_submodule(name, RmsNorm(len(weight), eps, offset))
    return module
