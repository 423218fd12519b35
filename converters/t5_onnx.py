"""T5 as three modules, for export: they run what the blocks run, the decoder's behind a cache of keys and values.

Named as optimum reads them: `encoder_model`; `decoder_model`, which begins an answer and makes the cache of both attentions; and
`decoder_with_past_model`, which goes on with it. An answer is never padded, so that the decoder has no mask of its own.
"""

from collections.abc import Sequence
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from transformers.cache_utils import EncoderDecoderCache

from converters.blocks import Blocks
from epmq_export.family import Block, Family, OnnxSpec, TensorSource
from epmq_export.rms_norm import RmsNorm

Axes = dict[str, dict[int, str]]
NORM = "final_layer_norm"
# The order in which a layer's parts of the cache stand.
PARTS = ("decoder.key", "decoder.value", "encoder.key", "encoder.value")


class StackLayer(Block, Protocol):
    def bias(self, module: nn.Module, places: Tensor, length: int) -> Tensor: ...

    def go_on(
        self, module: nn.Module, hidden: Tensor, read: Tensor, bias: Tensor, cross: tuple[Tensor, Tensor] | None = None, past: object | None = None
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

    def __init__(self, past: Sequence[tuple[Tensor, Tensor]]) -> None:
        self._past = past
        self.present: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, key: Tensor, value: Tensor, layer: int, *_: object) -> tuple[Tensor, Tensor]:
        if self._past:
            key, value = torch.cat((self._past[layer][0], key), 2), torch.cat((self._past[layer][1], value), 2)
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
    """Its class is what transformers tells a cache of both attentions by; nothing of its own is used, since it branches on lengths."""

    def __init__(self, own: _Kept, cross: _Given) -> None:
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

    def run(self, input_ids: Tensor, cross: tuple[Tensor, Tensor] | None, read: Tensor, cache: _Cache, past: int) -> Tensor:
        """Scores [batch, new, vocabulary], of tokens behind `past` others; without the encoder's states where the cache has what is made of them."""
        hidden = self._stem.run(self.part(self._stem.prefix), None, {"input_ids": input_ids})
        new = input_ids.shape[1]
        places = torch.arange(new, device=input_ids.device) + past
        behind = (places[:, None] >= torch.arange(past + new, device=input_ids.device)[None])[None, None]
        stack = self.part(self._layers[0].prefix)
        bias = self._layers[0].bias(stack, places, past + new)
        for layer in self._layers:
            hidden = layer.go_on(stack, hidden, behind, bias, cross or (hidden, read), cache)
        return self._head.scores(self.part(self._head.prefix), hidden)


class First(_Decoder):
    """logits float32 [batch, length, vocabulary], then of each layer its own keys and values and those of the encoder's states."""

    def forward(self, input_ids: Tensor, encoder_hidden_states: Tensor, encoder_attention_mask: Tensor) -> tuple[Tensor, ...]:
        own, given = _Kept([]), _Given([])
        read = encoder_attention_mask[:, None, None].bool()
        logits = self.run(input_ids, (encoder_hidden_states, read), read, _Cache(own, given), 0)
        return (logits, *(tensor for layer in range(len(self._layers)) for tensor in (*own.present[layer], *given.present[layer])))


class Next(_Decoder):
    """logits float32 [batch, new, vocabulary], then of each layer its own keys and values, past and new together."""

    def __init__(self, family: TwoStacks, source: TensorSource) -> None:
        super().__init__(family, source)
        for layer in self._layers:  # the cache has what these make
            attention = self.get_submodule(f"{layer.name}.layer.1.EncDecAttention")
            attention.k, attention.v = nn.Identity(), nn.Identity()

    def forward(self, input_ids: Tensor, encoder_attention_mask: Tensor, *cached: Tensor) -> tuple[Tensor, ...]:
        starts = range(0, len(cached), len(PARTS))
        own = _Kept([(cached[start], cached[start + 1]) for start in starts])
        given = _Given([(cached[start + 2], cached[start + 3]) for start in starts])
        logits = self.run(input_ids, None, encoder_attention_mask[:, None, None].bool(), _Cache(own, given), cached[0].shape[2])
        return (logits, *(tensor for layer in range(len(self._layers)) for tensor in own.present[layer]))


def name(kind: str, layer: int, part: str) -> str:
    return f"{kind}.{layer}.{part}"


def onnx_specs(family: TwoStacks, config: Any) -> dict[str, OnnxSpec]:  # noqa: ANN401
    """The encoder first: the runtime begins there and finds the decoders beside it, which give no scores by themselves and so have no towers."""
    depth = len(family.layers("decoder"))
    states = {0: "batch_size", 1: "encoder_sequence_length"}
    tokens = {0: "batch_size", 1: "decoder_sequence_length"}
    # Two texts of three tokens, and of the decoder two new ones behind five: the exporter takes an axis of length 0 or 1 for a constant.
    ones, hidden, ids = torch.ones(2, 3, dtype=torch.int64), torch.zeros(2, 3, config.d_model), torch.ones(2, 2, dtype=torch.int64)
    encoder = OnnxSpec(
        lambda source: Encoder(family, config, source),
        {"input_ids": ones, "attention_mask": ones},
        {"input_ids": states, "attention_mask": states},
        {"last_hidden_state": states},
        [family],
    )
    lengths = dict.fromkeys(PARTS[:2], "decoder_sequence_length") | dict.fromkeys(PARTS[2:], "encoder_sequence_length")
    made: Axes = {name("present", layer, part): {0: "batch_size", 2: lengths[part]} for layer in range(depth) for part in PARTS}
    first = OnnxSpec(
        lambda source: First(family, source),
        {"input_ids": ids, "encoder_hidden_states": hidden, "encoder_attention_mask": ones},
        {"input_ids": tokens, "encoder_hidden_states": states, "encoder_attention_mask": states},
        {"logits": tokens, **made},
        [],
    )
    lengths |= dict.fromkeys(PARTS[:2], "past_decoder_sequence_length")
    past: Axes = {name("past_key_values", layer, part): {0: "batch_size", 2: lengths[part]} for layer in range(depth) for part in PARTS}
    examples = {key: torch.zeros(2, config.num_heads, 5 if ".decoder." in key else 3, config.d_kv) for key in past}
    grown: Axes = {name("present", layer, part): {0: "batch_size", 2: "total_decoder_sequence_length"} for layer in range(depth) for part in PARTS[:2]}
    after = OnnxSpec(
        lambda source: Next(family, source),
        {"input_ids": ids, "encoder_attention_mask": ones, **examples},
        {"input_ids": tokens, "encoder_attention_mask": states, **past},
        {"logits": tokens, **grown},
        [],
    )
    return {"encoder_model": encoder, "decoder_model": first, "decoder_with_past_model": after}
