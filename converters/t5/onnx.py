"""T5 as four models, for export. They run the same blocks as the reference, those of the decoder behind a
cache of keys and values.

They have the names of optimum, which transformers.js reads: `encoder_model`; `decoder_model`, which begins an
answer and makes the cache of both attentions; `decoder_with_past_model`, which continues it; and
`decoder_model_merged`, which does both, in one graph without a branch, because no runtime fuses what is
inside a branch. An answer is never padded, so that the decoder has no mask of its own.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from transformers.cache_utils import EncoderDecoderCache

from converters.shared.blocks import Blocks
from converters.shared.config import Config
from epmq_export.models.family import Block, Family
from epmq_export.models.rms_norm import RmsNorm
from epmq_export.models.specs import OnnxSpec
from epmq_export.tensors.source import TensorSource

Axes = dict[str, dict[int, str]]
NORM = "final_layer_norm"
# The order of a layer's parts of the cache.
PARTS = ("decoder.key", "decoder.value", "encoder.key", "encoder.value")


class StackLayer(Block, Protocol):
    """A layer of a stack that can run behind a cache."""

    def bias(self, module: nn.Module, places: Tensor, length: int) -> Tensor: ...

    def go_on(
        self,
        module: nn.Module,
        hidden: Tensor,
        read: Tensor,
        bias: Tensor,
        cross: tuple[Tensor, Tensor] | None = None,
        past: object | None = None,
    ) -> Tensor: ...


class ScoringHead(Block, Protocol):
    """A head that scores all rows."""

    def scores(self, module: nn.Module, states: Tensor) -> Tensor: ...


class TwoStacks(Family, Protocol):
    """A family of an encoder and a decoder."""

    @property
    def stem(self) -> Block: ...

    def layers(self, stack: Literal["encoder", "decoder"]) -> Sequence[StackLayer]: ...

    @property
    def head(self) -> ScoringHead: ...


class Encoder(Blocks):
    """A module that returns last_hidden_state, float32 [batch, length, width], after the last norm."""

    def __init__(self, family: TwoStacks, config: Config, source: TensorSource) -> None:
        self._stem, self._layers = family.stem, family.layers("encoder")
        super().__init__(source, [self._stem, *self._layers])
        norm = RmsNorm(config.d_model, config.layer_norm_epsilon)
        norm.weight = nn.Parameter(source.load(f"encoder.{NORM}.weight").float(), requires_grad=False)
        self.get_submodule("encoder").add_module(NORM, norm)

    def forward(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        hidden = self._stem.run(self.part(self._stem.prefix), None, {"input_ids": input_ids})
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        stack = self.part(self._layers[0].prefix)
        bias = self._layers[0].bias(stack, places, input_ids.shape[1])
        for layer in self._layers:
            hidden = layer.go_on(stack, hidden, attention_mask[:, None, None].bool(), bias)
        normalised: Tensor = self.get_submodule(f"encoder.{NORM}")(hidden)
        return normalised


class _Kept:
    """The keys and values of one of the attentions, with the method that transformers calls."""

    layers: Sequence["_Layer"] = ()
    """The layers that transformers is to read as they are."""

    def __init__(self, past: Sequence[tuple[Tensor, Tensor]]) -> None:
        self._past = past
        self.present: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, key: Tensor, value: Tensor, layer: int, *_: object) -> tuple[Tensor, Tensor]:
        if self._past:
            key, value = (
                torch.cat((self._past[layer][0], key), 2),
                torch.cat((self._past[layer][1], value), 2),
            )
        self.present[layer] = (key, value)
        return key, value


class _Layer:
    """Keys and values of one layer, as transformers reads them."""

    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values


class _Given(_Kept):
    """The keys and values of the encoder's states, which never grow."""

    def __init__(self, past: Sequence[tuple[Tensor, Tensor]]) -> None:
        super().__init__(past)
        self.layers = [_Layer(*pair) for pair in past]


class _Cache(EncoderDecoderCache):
    """A cache of both attentions. transformers knows it by its class. Nothing of that class is used, because
    it branches on lengths.
    """

    def __init__(self, own: _Kept, cross: _Kept) -> None:
        self.self_attention_cache: Any = own
        self.cross_attention_cache: Any = cross
        self.is_updated = dict.fromkeys(range(len(cross.layers)), True)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return 0. transformers asks for it where no bias is given, as in cross attention, which has
        none.
        """
        return 0


class _Decoder(Blocks):
    """The decoder's stack behind a cache."""

    def __init__(self, family: TwoStacks, source: TensorSource) -> None:
        self._stem, self._layers, self._head = family.stem, family.layers("decoder"), family.head
        super().__init__(source, [self._stem, *self._layers, self._head])

    def run(
        self, input_ids: Tensor, cross: tuple[Tensor, Tensor] | None, read: Tensor, cache: _Cache, past: int
    ) -> Tensor:
        """Return scores [batch, new, vocabulary], of tokens behind `past` others; without the encoder's
        states where the cache has what is made of them.
        """
        hidden = self._stem.run(self.part(self._stem.prefix), None, {"input_ids": input_ids})
        new = input_ids.shape[1]
        places = torch.arange(new, device=input_ids.device) + past
        behind = (places[:, None] >= torch.arange(past + new, device=input_ids.device)[None])[None, None]
        stack = self.part(self._layers[0].prefix)
        bias = self._layers[0].bias(stack, places, past + new)
        for layer in self._layers:
            hidden = layer.go_on(stack, hidden, behind, bias, cross or (hidden, read), cache)
        return self._head.scores(self.part(self._head.prefix), hidden)


class Whole(_Decoder):
    """A module that returns logits, float32 [batch, new, vocabulary], and then for each layer its own keys
    and values and those of the encoder's states, past and new together.

    Every call gets all of the encoder's states. Those are new that the cache does not have yet: all at the
    beginning of an answer, and none later, so that linears multiply no rows. A model that can only begin an
    answer has no cache.
    """

    def forward(
        self,
        input_ids: Tensor,
        encoder_hidden_states: Tensor,
        encoder_attention_mask: Tensor,
        *cached: Tensor,
    ) -> tuple[Tensor, ...]:
        past = _pasts(cached)
        own, cross = (_Kept(pairs) for pairs in past)
        before, known = (pairs[0][0].shape[2] if pairs else 0 for pairs in past)
        read = encoder_attention_mask[:, None, None].bool()
        logits = self.run(
            input_ids, (encoder_hidden_states[:, known:], read), read, _Cache(own, cross), before
        )
        return (
            logits,
            *(
                tensor
                for layer in range(len(self._layers))
                for tensor in (*own.present[layer], *cross.present[layer])
            ),
        )


class Next(_Decoder):
    """A module that returns logits, float32 [batch, new, vocabulary], and then for each layer its own keys
    and values, past and new together.
    """

    def __init__(self, family: TwoStacks, source: TensorSource) -> None:
        super().__init__(family, source)
        for layer in self._layers:  # The cache has the keys and values that these would make.
            attention = self.get_submodule(f"{layer.name}.layer.1.EncDecAttention")
            attention.k, attention.v = nn.Identity(), nn.Identity()

    def forward(
        self, input_ids: Tensor, encoder_attention_mask: Tensor, *cached: Tensor
    ) -> tuple[Tensor, ...]:
        past, given = _pasts(cached)
        own = _Kept(past)
        logits = self.run(
            input_ids,
            None,
            encoder_attention_mask[:, None, None].bool(),
            _Cache(own, _Given(given)),
            cached[0].shape[2],
        )
        return (logits, *(tensor for layer in range(len(self._layers)) for tensor in own.present[layer]))


def _pasts(
    cached: Sequence[Tensor],
) -> tuple[Sequence[tuple[Tensor, Tensor]], Sequence[tuple[Tensor, Tensor]]]:
    """Return keys and values by layer, of the decoder's own tokens and of the encoder's states."""
    keys = range(0, len(cached), len(PARTS))
    return [(cached[key], cached[key + 1]) for key in keys], [
        (cached[key + 2], cached[key + 3]) for key in keys
    ]


def onnx_specs(family: TwoStacks, config: Config) -> dict[str, OnnxSpec]:
    """Return the models, the encoder first: the runtime begins there and finds the decoders beside it, two of
    which give scores together only and so have no towers.
    """
    depth = len(family.layers("decoder"))
    states = {0: "batch_size", 1: "encoder_sequence_length"}
    tokens = {0: "batch_size", 1: "decoder_sequence_length"}
    # The example has two texts of seven tokens, of which a cache may have three, and two new tokens of the
    # decoder behind five, because the exporter takes an axis of length 0 or 1 for constant.
    ones, hidden, ids = (
        torch.ones(2, 7, dtype=torch.int64),
        torch.zeros(2, 7, config.d_model),
        torch.ones(2, 2, dtype=torch.int64),
    )
    encoder = OnnxSpec(
        build=lambda source: Encoder(family, config, source),
        example={"input_ids": ones, "attention_mask": ones},
        inputs={"input_ids": states, "attention_mask": states},
        outputs={"last_hidden_state": states},
        towers=[family],
    )
    given: dict[str, Tensor] = {
        "input_ids": ids,
        "encoder_hidden_states": hidden,
        "encoder_attention_mask": ones,
    }
    begun: Axes = {"input_ids": tokens, "encoder_hidden_states": states, "encoder_attention_mask": states}
    first = OnnxSpec(
        build=lambda source: Whole(family, source),
        example=given,
        inputs=begun,
        outputs={
            "logits": tokens,
            **_axes("present", depth, "decoder_sequence_length", "encoder_sequence_length"),
        },
        towers=[],
    )
    grown = _axes("present", depth, "total_decoder_sequence_length", "encoder_sequence_length")
    past = _axes("past_key_values", depth, "past_decoder_sequence_length", "encoder_sequence_length")
    after = OnnxSpec(
        build=lambda source: Next(family, source),
        example={"input_ids": ids, "encoder_attention_mask": ones, **_zeros(config, past, 7)},
        inputs={"input_ids": tokens, "encoder_attention_mask": states, **past},
        outputs={"logits": tokens, **{name: axes for name, axes in grown.items() if ".decoder." in name}},
        towers=[],
    )
    past = _axes("past_key_values", depth, "past_decoder_sequence_length", "past_encoder_sequence_length")
    merged = OnnxSpec(
        build=lambda source: Whole(family, source),
        example={**given, **_zeros(config, past, 3)},
        inputs={**begun, **past},
        outputs={"logits": tokens, **grown},
        towers=[family],
    )
    return {
        "encoder_model": encoder,
        "decoder_model": first,
        "decoder_with_past_model": after,
        "decoder_model_merged": merged,
    }


def _axes(kind: str, depth: int, decoder: str, encoder: str) -> Axes:
    """Return the dynamic axes of a cache's parts, by their names."""
    return {
        f"{kind}.{layer}.{part}": {0: "batch_size", 2: decoder if part in PARTS[:2] else encoder}
        for layer in range(depth)
        for part in PARTS
    }


def _zeros(config: Config, past: Iterable[str], states: int) -> dict[str, Tensor]:
    """Return a cache of five tokens of the decoder, and of so many of the encoder's."""
    return {
        name: torch.zeros(2, config.num_heads, 5 if ".decoder." in name else states, config.d_kv)
        for name in past
    }
