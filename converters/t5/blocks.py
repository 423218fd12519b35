"""The blocks of T5, with encoder and decoder in one chain. Behind the encoder the hidden state is that of
both, one after the other.
"""

from dataclasses import dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import T5Config
from transformers.models.t5.modeling_t5 import T5Attention, T5Block, T5LayerNorm

from converters.shared.distances import DISTANCE, by_distance
from epmq_export.models.family import Batch
from epmq_export.models.rms_norm import RmsNorm
from epmq_export.models.shapes import shapes_alone

TABLE = "0.layer.0.SelfAttention.relative_attention_bias"
Stack = Literal["encoder", "decoder"]


@dataclass(frozen=True)
class Stem:
    """The encoder's embeddings, from int64 [batch, length] to [batch, length, width]. Nothing in it is
    calibrated.
    """

    config: T5Config
    name: str = "encoder.embeddings"
    prefix: str = ""
    steps: tuple[tuple[str, ...], ...] = ()

    def build(self) -> nn.Module:
        with shapes_alone():
            module = nn.Module()
            module.shared = nn.Embedding(self.config.vocab_size, self.config.d_model)
            return module.eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        result: Tensor = module.get_submodule("shared")(batch["input_ids"])
        return result

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        return batch["attention_mask"].float()


@dataclass(frozen=True)
class Layer:
    """One layer of a stack, with the table of relative positions, which the stack's first layer has for all
    of them.

    The encoder's layers carry its own states, [batch, encoder length, width]. Those of the decoder carry the
    encoder's states and then their own, one behind the other along the length, because cross attention reads
    the former.
    """

    config: T5Config
    """The config of the stack."""

    index: int
    buckets: Tensor = field(compare=False, repr=False)
    """The buckets of the stack, by the distance of two tokens (`position_buckets`)."""

    approximate: nn.Module | None = None
    """A module in place of the activation, or None."""

    @property
    def stack(self) -> Stack:
        return "decoder" if self.config.is_decoder else "encoder"

    @property
    def name(self) -> str:
        return f"{self.stack}.block.{self.index}"

    @property
    def prefix(self) -> str:
        return f"{self.stack}.block."

    @property
    def steps(self) -> tuple[tuple[str, ...], ...]:
        of_layer = [
            ("0.layer_norm",),
            tuple(f"0.SelfAttention.{which}" for which in "qkv"),
            ("0.SelfAttention.o",),
        ]
        if self.config.is_decoder:
            cross = "1.EncDecAttention"
            of_layer += [("1.layer_norm",), (f"{cross}.q",), (f"{cross}.k", f"{cross}.v"), (f"{cross}.o",)]
        last = len(self._parts) - 1
        first = ("wi_0", "wi_1") if self.config.is_gated_act else ("wi",)
        of_layer += [
            (f"{last}.layer_norm",),
            tuple(f"{last}.DenseReluDense.{which}" for which in first),
            (f"{last}.DenseReluDense.wo",),
        ]
        return tuple(tuple(f"{self.index}.layer.{path}" for path in step) for step in of_layer)

    @property
    def _parts(self) -> tuple[str, ...]:
        return ("self", "cross", "feed-forward") if self.config.is_decoder else ("self", "feed-forward")

    def build(self) -> nn.Module:
        with shapes_alone():
            module = nn.Module()
            block = _with_rms_norms(T5Block(self.config, self.index == 0, self.index))
            if self.approximate is not None:
                block.get_submodule(f"layer.{len(self._parts) - 1}.DenseReluDense").act = self.approximate
            module.add_module(str(self.index), block)
            if self.index > 0:
                inner: nn.Module = module
                *path, last = TABLE.split(".")
                for part in path:
                    inner.add_module(part, nn.Module())
                    inner = inner.get_submodule(part)
                inner.add_module(
                    last, nn.Embedding(self.config.relative_attention_num_buckets, self.config.num_heads)
                )
            return module.eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        assert hidden is not None
        read = batch["attention_mask"][:, None, None].bool()
        encoder, states = in_two(hidden, batch) if self.config.is_decoder else (None, hidden)
        places = torch.arange(states.shape[1], device=hidden.device)
        bias, block = self.bias(module.get_submodule(TABLE), places, states.shape[1]), self._block(module)
        if encoder is None:
            return self.go_on(block, states, read, bias)
        behind = (places[:, None] >= places[None])[None, None] & batch["decoder_attention_mask"][
            :, None, None
        ].bool()
        return torch.cat((encoder, self.go_on(block, states, behind, bias, (encoder, read))), 1)

    def _block(self, module: nn.Module) -> nn.Module:
        return module.get_submodule(str(self.index))

    def go_on(
        self,
        block: nn.Module,
        hidden: Tensor,
        read: Tensor,
        bias: Tensor,
        cross: tuple[Tensor, Tensor] | None = None,
        past: object | None = None,
    ) -> Tensor:
        """Return the stack's next states, [batch, new, width]. `read`, bool [batch, 1, 1 or new, all], says
        which tokens each token reads. A decoder's layer also gets the encoder's states and which of these are
        read, or a cache that has the keys and values of both.
        """
        result: Tensor = block(hidden, read, bias, *(cross or ()), past_key_values=past)[0]
        return result

    def bias(self, table: nn.Module, places: Tensor, length: int) -> Tensor:
        """Return the numbers of the table that are added to the attention's scores by distance, [1, heads,
        new, length], for tokens at `places`, [new], among `length`.
        """
        return by_distance(table, self.buckets, places, length)

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        """Return the mask of the encoder's tokens where a step reads those, as keys and values of cross
        attention do, and else of the stack's own.
        """
        of_encoder = not self.config.is_decoder or step[0].endswith("EncDecAttention.k")
        return batch["attention_mask" if of_encoder else "decoder_attention_mask"].float()


@dataclass(frozen=True)
class Turn:
    """The step from the encoder to the decoder: the encoder's last norm, and behind it the embeddings of the
    decoder's tokens.
    """

    config: T5Config
    name: str = "decoder.embeddings"
    prefix: str = ""
    steps: tuple[tuple[str, ...], ...] = (("encoder.final_layer_norm",),)

    def build(self) -> nn.Module:
        with shapes_alone():
            module, encoder = nn.Module(), nn.Module()
            encoder.final_layer_norm = RmsNorm(self.config.d_model, self.config.layer_norm_epsilon)
            module.encoder = encoder
            module.shared = nn.Embedding(self.config.vocab_size, self.config.d_model)
            return module.eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        normalised: Tensor = module.get_submodule("encoder.final_layer_norm")(hidden)
        return torch.cat((normalised, module.get_submodule("shared")(batch["decoder_input_ids"])), 1)

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        return batch["attention_mask"].float()


@dataclass(frozen=True)
class Head:
    """The decoder's last norm, and the scores of all tokens for the rows that are read: by a matrix of its
    own, or by the embeddings. In the latter case the states are divided by the root of the width.
    """

    config: T5Config
    tied: bool
    name: str = "head"
    prefix: str = ""
    steps: tuple[tuple[str, ...], ...] = (("decoder.final_layer_norm",),)

    @property
    def _scores(self) -> str:
        return "shared" if self.tied else "lm_head"

    def build(self) -> nn.Module:
        width = self.config.d_model
        with shapes_alone():
            module, decoder = nn.Module(), nn.Module()
            decoder.final_layer_norm = RmsNorm(width, self.config.layer_norm_epsilon)
            module.decoder = decoder
            module.add_module(self._scores, nn.Linear(width, self.config.vocab_size, bias=False))
            return module.eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        assert hidden is not None
        return self.scores(module, in_two(hidden, batch)[1], batch["read"].bool())

    def scores(self, module: nn.Module, states: Tensor, read: Tensor | None = None) -> Tensor:
        """Return the scores of the decoder's states [batch, length, width], [rows, vocabulary], for the rows
        that are read, or for all rows, [batch, length, vocabulary].
        """
        normalised = module.get_submodule("decoder.final_layer_norm")(states)
        normalised = normalised if read is None else normalised[read]
        # The module itself is not called, because in an exported model the embeddings' module has the weight.
        weight: Tensor = module.get_parameter(f"{self._scores}.weight")
        return nn.functional.linear(
            normalised * self.config.d_model**-0.5 if self.tied else normalised, weight
        )

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        return batch["decoder_attention_mask"].float()


def in_two(hidden: Tensor, batch: Batch) -> tuple[Tensor, Tensor]:
    """Return the encoder's states and the decoder's, from the hidden state that the decoder's blocks
    carry.
    """
    length = batch["attention_mask"].shape[1]
    return hidden[:, :length], hidden[:, length:]


def position_buckets(config: T5Config) -> Tensor:
    """Return the row of the table of relative positions by distance, int64 [2 DISTANCE + 1], from DISTANCE
    tokens before to as many behind.
    """
    bucket: Any = T5Attention._relative_position_bucket
    distances = torch.arange(-DISTANCE, DISTANCE + 1)
    found: Tensor = bucket(
        distances,
        not config.is_decoder,
        config.relative_attention_num_buckets,
        config.relative_attention_max_distance,
    )
    return found


def _with_rms_norms(module: nn.Module) -> nn.Module:
    """Replace the library's own norms by the one that calibration knows, and return the module."""
    for name, child in [*module.named_modules()]:
        if isinstance(child, T5LayerNorm):
            module.set_submodule(name, RmsNorm(len(child.weight), child.variance_epsilon))
    return module
