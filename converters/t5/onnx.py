"""T5 as four models, for export: they run what the blocks run, the decoder's behind a cache of keys and
values.

Named as optimum and transformers.js read them: `encoder_model`; `decoder_model`, which begins an answer and
makes the cache of both attentions; `decoder_with_past_model`, which goes on with it; and
`decoder_model_merged`, which does either, in one graph without a branch: no runtime fuses what stands in one.
An answer is never padded, so that the decoder has no mask of its own.
"""

from collections.abc import Iterable, Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from transformers.cache_utils import EncoderDecoderCache

from converters.shared.blocks import Blocks
from epmq_export.models.family import Block, Family
from epmq_export.models.rms_norm import RmsNorm
from epmq_export.models.specs import OnnxSpec
from epmq_export.tensors.source import TensorSource

Axes = dict[str, dict[int, str]]
NORM = "final_layer_norm"
# The order in which a layer's parts of the cache stand.
PARTS = ("decoder.key", "decoder.value", "encoder.key", "encoder.value")


class StackLayer(Block, Protocol):
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
    def scores(self, module: nn.Module, states: Tensor) -> Tensor: ...


class TwoStacks(Family, Protocol):
    @property
    def stem(self) -> Block: ...

    def layers(self, stack: Literal["encoder", "decoder"]) -> Sequence[StackLayer]: ...

    @property
    def head(self) -> ScoringHead: ...


class Encoder(Blocks):
    """last_hidden_state float32 [batch, length, width], after the last norm."""

    def __init__(self, family: TwoStacks, config: Any, source: TensorSource) -> None:  # noqa: ANN401 - its class declares some keys
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
    """Keys and values of one of the attentions, as transformers asks for them."""

    layers: Sequence["_Layer"] = ()
    """Of what transformers is to read as it is."""

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
    def __init__(self, keys: Tensor, values: Tensor) -> None:
        self.keys, self.values = keys, values


class _Given(_Kept):
    """Those of the encoder's states, which never grow."""

    def __init__(self, past: Sequence[tuple[Tensor, Tensor]]) -> None:
        super().__init__(past)
        self.layers = [_Layer(*pair) for pair in past]


class _Cache(EncoderDecoderCache):
    """Its class is what transformers tells a cache of both attentions by; nothing of its own is used, since
    it branches on lengths.
    """

    def __init__(self, own: _Kept, cross: _Kept) -> None:
        self.self_attention_cache: Any = own
        self.cross_attention_cache: Any = cross
        self.is_updated = dict.fromkeys(range(len(cross.layers)), True)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Asked for where no bias is given, as in cross attention, which has none."""
        return 0


class _Decoder(Blocks):
    def __init__(self, family: TwoStacks, source: TensorSource) -> None:
        self._stem, self._layers, self._head = family.stem, family.layers("decoder"), family.head
        super().__init__(source, [self._stem, *self._layers, self._head])

    def run(
        self, input_ids: Tensor, cross: tuple[Tensor, Tensor] | None, read: Tensor, cache: _Cache, past: int
    ) -> Tensor:
        """Scores [batch, new, vocabulary], of tokens behind `past` others; without the encoder's states where
        the cache has what is made of them.
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
    """logits float32 [batch, new, vocabulary], then of each layer its own keys and values and those of the
    encoder's states, past and new together.

    The encoder's states are all given at each call, of which those are new that the cache has not yet: all at
    an answer's beginning, none later, when linears multiply no rows. Without a cache for what can only begin.
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
    """logits float32 [batch, new, vocabulary], then of each layer its own keys and values, past and new
    together.
    """

    def __init__(self, family: TwoStacks, source: TensorSource) -> None:
        super().__init__(family, source)
        for layer in self._layers:  # the cache has what these make
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
    """Keys and values by layer, of the decoder's own tokens and of the encoder's states."""
    keys = range(0, len(cached), len(PARTS))
    return [(cached[key], cached[key + 1]) for key in keys], [
        (cached[key + 2], cached[key + 3]) for key in keys
    ]


def onnx_specs(family: TwoStacks, config: Any) -> dict[str, OnnxSpec]:  # noqa: ANN401
    """The encoder first: the runtime begins there and finds the decoders beside it, two of which give scores
    together only and so have no towers.
    """
    depth = len(family.layers("decoder"))
    states = {0: "batch_size", 1: "encoder_sequence_length"}
    tokens = {0: "batch_size", 1: "decoder_sequence_length"}
    # Two texts of seven tokens, of which a cache may have three, and of the decoder two new ones behind five:
    # the exporter takes an axis of length 0 or 1 for a constant.
    ones, hidden, ids = (
        torch.ones(2, 7, dtype=torch.int64),
        torch.zeros(2, 7, config.d_model),
        torch.ones(2, 2, dtype=torch.int64),
    )
    encoder = OnnxSpec(
        lambda source: Encoder(family, config, source),
        {"input_ids": ones, "attention_mask": ones},
        {"input_ids": states, "attention_mask": states},
        {"last_hidden_state": states},
        [family],
    )
    given: dict[str, Tensor] = {
        "input_ids": ids,
        "encoder_hidden_states": hidden,
        "encoder_attention_mask": ones,
    }
    begun: Axes = {"input_ids": tokens, "encoder_hidden_states": states, "encoder_attention_mask": states}
    first = OnnxSpec(
        lambda source: Whole(family, source),
        given,
        begun,
        {"logits": tokens, **_axes("present", depth, "decoder_sequence_length", "encoder_sequence_length")},
        [],
    )
    grown = _axes("present", depth, "total_decoder_sequence_length", "encoder_sequence_length")
    past = _axes("past_key_values", depth, "past_decoder_sequence_length", "encoder_sequence_length")
    after = OnnxSpec(
        lambda source: Next(family, source),
        {"input_ids": ids, "encoder_attention_mask": ones, **_zeros(config, past, 7)},
        {"input_ids": tokens, "encoder_attention_mask": states, **past},
        {"logits": tokens, **{name: axes for name, axes in grown.items() if ".decoder." in name}},
        [],
    )
    past = _axes("past_key_values", depth, "past_decoder_sequence_length", "past_encoder_sequence_length")
    merged = OnnxSpec(
        lambda source: Whole(family, source),
        {**given, **_zeros(config, past, 3)},
        {**begun, **past},
        {"logits": tokens, **grown},
        [family],
    )
    return {
        "encoder_model": encoder,
        "decoder_model": first,
        "decoder_with_past_model": after,
        "decoder_model_merged": merged,
    }


def _axes(kind: str, depth: int, decoder: str, encoder: str) -> Axes:
    """Of a cache's parts, by their names."""
    return {
        f"{kind}.{layer}.{part}": {0: "batch_size", 2: decoder if part in PARTS[:2] else encoder}
        for layer in range(depth)
        for part in PARTS
    }


def _zeros(config: Any, past: Iterable[str], states: int) -> dict[str, Tensor]:  # noqa: ANN401
    """A cache of five tokens of the decoder, and of so many of the encoder's."""
    return {
        name: torch.zeros(2, config.num_heads, 5 if ".decoder." in name else states, config.d_kv)
        for name in past
    }
