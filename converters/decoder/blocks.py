"""The blocks of decoder language models."""

from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from converters.decoder.experts import experts_of, mix
from converters.decoder.kinds import GELU, Kind
from converters.shared.config import Config
from converters.shared.ggml_gelu import GatedGelu
from epmq_export.models.family import Batch
from epmq_export.models.rms_norm import RmsNorm
from epmq_export.models.shapes import shapes_alone

SLIDING = "sliding_attention"


@dataclass(frozen=True)
class Stem:
    """The embeddings of the tokens. Nothing in it is calibrated."""

    kind: Kind
    config: Config
    name: str = "embeddings"
    prefix: str = "model."
    steps: tuple[tuple[str, ...], ...] = ()

    def build(self) -> nn.Module:
        with shapes_alone():
            module = nn.Module()
            module.embed_tokens = nn.Embedding(self.config.vocab_size, self.config.hidden_size)
            return module.eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        result: Tensor = module.get_submodule("embed_tokens")(batch["input_ids"])
        factor: float = 1.0
        if self.kind.scaled:
            factor = self.config.hidden_size**0.5
        elif self.kind.multipliers:
            factor = self.config.embedding_multiplier
        return result if factor == 1 else result * factor

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        return batch["attention_mask"].float()


@dataclass(frozen=True)
class Layer:
    """One transformer layer, normalised before each part, behind it, or both, as its kind says."""

    kind: Kind
    config: Config
    index: int
    rotary: nn.Module = field(compare=False, repr=False)
    """The whole model's, its frequencies on the CPU."""

    as_ggml: bool
    """Whether a GELU is computed as in ggml."""

    @property
    def name(self) -> str:
        return f"layers.{self.index}"

    @property
    def prefix(self) -> str:
        return f"model.{self.name}."

    @property
    def steps(self) -> tuple[tuple[str, ...], ...]:
        return self.kind.steps(experts_of(self.kind, self.config))

    @property
    def attends(self) -> str | None:
        """Return the kind of the layer's attention, where the architecture has more than one."""
        return self.config.layer_types[self.index] if self.kind.has_windows else None

    def build(self) -> nn.Module:
        with shapes_alone():
            module = with_rms_norms(
                self.kind.layer(self.config, self.index), self.config.rms_norm_eps, self.kind.offset
            )
            if self.kind.mixed:
                mix(module, self.kind, self.config)
            if self.as_ggml and self.kind.activation == GELU:
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
        """Return the next hidden state [batch, new, width] of tokens at `positions` [batch, new], behind
        those of a cache.

        `places`, [new], are the indices of the new tokens among all tokens. `attention_mask`, [batch, all],
        tells which of these are no padding.
        """
        own = [self.attends] if self.kind.windows == "mixed" else []
        rotation = self.rotary(hidden, positions, *own)
        # How far back each token looks at each other one.
        behind = places[:, None] - torch.arange(attention_mask.shape[1], device=hidden.device)[None]
        apart = behind.abs() if self.kind.both_ways else behind
        seen = apart >= 0
        if self.attends == SLIDING:
            seen = seen & (apart < self.config.sliding_window)
        mask = seen[None, None] & attention_mask[:, None, None].bool()
        result: Tensor = module(
            hidden, attention_mask=mask, position_embeddings=rotation, past_key_values=past
        )
        return result

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        return batch["attention_mask"].float()


@dataclass(frozen=True)
class Head:
    """The last norm, and the scores of all tokens for the rows that are read: by the embeddings themselves,
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
        with shapes_alone():
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
        """Return the scores of all tokens, for the rows of [batch, length, width] that are read, [rows,
        vocabulary], or for all [batch, length, vocabulary].
        """
        normalised = module.get_submodule(self._norm)(hidden)
        # The module itself is not called, because in an exported model the embeddings' module has the weight.
        weight: Tensor = module.get_parameter(f"{self._scores}.weight")
        found = nn.functional.linear(normalised if read is None else normalised[read], weight)
        divisor: float = self.config.logits_scaling if self.kind.multipliers else 1.0
        found = found if divisor == 1 else found / divisor
        cap: float | None = self.config.final_logit_softcapping if self.kind.capped else None
        return found if cap is None else cap * torch.tanh(found / cap)

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        return batch["attention_mask"].float()


def with_rms_norms(module: nn.Module, eps: float, offset: float) -> nn.Module:
    """Return the module with the library's own classes of norms replaced by the one that calibration
    knows.
    """
    for name, child in [*module.named_modules()]:
        if type(child).__name__.endswith("RMSNorm"):
            weight: Tensor = child.get_parameter("weight")
            module.set_submodule(name, RmsNorm(len(weight), eps, offset))
    return module
