"""T5 as the parts of four ONNX models. They run the same blocks as the reference, those of the decoder behind
a cache of keys and values.

They have the names of optimum, which transformers.js reads: `encoder_model`; `decoder_model`, which begins an
answer and makes the cache of both attentions; `decoder_with_past_model`, which continues it; and
`decoder_model_merged`, which does both, in one graph without a branch, because no runtime fuses what is
inside a branch. An answer is never padded, so that the decoder has no mask of its own.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Literal, Protocol

import torch
from torch import Tensor, nn
from transformers.cache_utils import EncoderDecoderCache

from converters.shared.config import Config
from converters.t5.blocks import TABLE
from epmq_export.models.family import Block, Family
from epmq_export.models.rms_norm import RmsNorm
from epmq_export.models.shapes import shapes_alone
from epmq_export.models.specs import OnnxPart, OnnxSpec

Axes = dict[str, dict[int, str]]
NORM = "final_layer_norm"
# The order of a layer's parts of the cache.
PARTS = ("decoder.key", "decoder.value", "encoder.key", "encoder.value")
PAST = "past_key_values"


class StackLayer(Block, Protocol):
    """A layer of a stack that can run behind a cache."""

    @property
    def index(self) -> int: ...

    def bias(self, table: nn.Module, places: Tensor, length: int) -> Tensor: ...

    def go_on(
        self,
        block: nn.Module,
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


class _Kept:
    """The keys and values of one of a layer's attentions, with the method that transformers calls."""

    layers: Mapping[int, "_Layer"] = {}
    """The layers that transformers is to read as they are."""

    def __init__(self, *past: Tensor) -> None:
        self._past = past
        self.present: tuple[Tensor, ...] = ()

    def update(self, key: Tensor, value: Tensor, *_: object) -> tuple[Tensor, Tensor]:
        if self._past:
            key, value = (torch.cat(pair, 2) for pair in zip(self._past, (key, value), strict=True))
        self.present = (key, value)
        return key, value


@dataclass(frozen=True)
class _Layer:
    """Keys and values of one layer, as transformers reads them."""

    keys: Tensor
    values: Tensor


class _Given(_Kept):
    """The keys and values of the encoder's states, which never grow."""

    def __init__(self, index: int, *past: Tensor) -> None:
        super().__init__()
        self.layers = {index: _Layer(*past)}


class _Cache(EncoderDecoderCache):
    """A cache of both attentions. transformers knows it by its class. Nothing of that class is used, because
    it branches on lengths.
    """

    def __init__(self, own: _Kept, cross: _Kept) -> None:
        self.self_attention_cache: Any = own
        self.cross_attention_cache: Any = cross
        self.is_updated = dict.fromkeys(cross.layers, True)

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return 0. transformers asks for it where no bias is given, as in cross attention, which has
        none.
        """
        return 0


def _encoder(family: TwoStacks, config: Config) -> Iterator[OnnxPart]:
    """Yield the parts that make last_hidden_state, float32 [batch, length, width], after the last norm."""
    stem, layers = family.stem, family.layers("encoder")
    yield _begin(stem)

    def read(table: nn.Module, input_ids: Tensor, attention_mask: Tensor) -> tuple[Tensor, Tensor]:
        places = torch.arange(input_ids.shape[1], device=input_ids.device)
        return attention_mask[:, None, None].bool(), layers[0].bias(table, places, input_ids.shape[1])

    yield _distances(layers[0], read, ["input_ids", "attention_mask"], ["read", "bias"])

    def go_on(
        layer: StackLayer, block: nn.Module, hidden: Tensor, read: Tensor, bias: Tensor
    ) -> tuple[Tensor]:
        return (layer.go_on(block, hidden, read, bias),)

    for i, layer in enumerate(layers):
        yield _layer(layer, partial(go_on, layer), [f"hidden.{i}", "read", "bias"], [f"hidden.{i + 1}"])
    yield OnnxPart(
        build=lambda: _of_shapes(lambda: RmsNorm(config.d_model, config.layer_norm_epsilon)),
        prefix=f"encoder.{NORM}.",
        run=lambda norm, hidden: (norm(hidden),),
        reads=[f"hidden.{len(layers)}"],
        makes=["last_hidden_state"],
    )


def _decoder(family: TwoStacks, parts: Sequence[str]) -> Iterator[OnnxPart]:
    """Yield the parts that make logits, float32 [batch, new, vocabulary], and for each layer its own keys and
    values and those of the encoder's states, past and new together.

    Every call gets all of the encoder's states. Those are new that the cache does not have yet: all at the
    beginning of an answer, and none later, so that linears multiply no rows. A model that can only begin an
    answer has no cache, and no `parts` of one.
    """
    layers = family.layers("decoder")
    yield _begin(family.stem)
    yield _behind(layers[0], _names(PAST, 0, parts[:1]))
    states = "encoder_hidden_states"
    if parts:
        states = "states"
        yield OnnxPart(
            run=lambda module, given, known: (given[:, known.shape[2] :],),
            reads=["encoder_hidden_states", *_names(PAST, 0, PARTS[2:3])],
            makes=[states],
        )

    def go_on(
        layer: StackLayer,
        block: nn.Module,
        hidden: Tensor,
        read: Tensor,
        bias: Tensor,
        states: Tensor,
        of_states: Tensor,
        *past: Tensor,
    ) -> tuple[Tensor, ...]:
        own, cross = _Kept(*past[:2]), _Kept(*past[2:])
        hidden = layer.go_on(block, hidden, read, bias, (states, of_states), _Cache(own, cross))
        return hidden, *own.present, *cross.present

    for i, layer in enumerate(layers):
        reads = [f"hidden.{i}", "behind", "bias", states, "read", *_names(PAST, i, parts)]
        yield _layer(layer, partial(go_on, layer), reads, [f"hidden.{i + 1}", *_names("present", i, PARTS)])
    yield _end(family.head, len(layers))


def _next(family: TwoStacks) -> Iterator[OnnxPart]:
    """Yield the parts that make logits, float32 [batch, new, vocabulary], and for each layer its own keys and
    values, past and new together.
    """
    layers = family.layers("decoder")
    yield _begin(family.stem)
    yield _behind(layers[0], _names(PAST, 0, PARTS[:1]))

    def go_on(
        layer: StackLayer,
        block: nn.Module,
        hidden: Tensor,
        read: Tensor,
        bias: Tensor,
        of_states: Tensor,
        *past: Tensor,
    ) -> tuple[Tensor, ...]:
        own = _Kept(*past[:2])
        cache = _Cache(own, _Given(layer.index, *past[2:]))
        return layer.go_on(block, hidden, read, bias, (hidden, of_states), cache), *own.present

    for i, layer in enumerate(layers):
        reads = [f"hidden.{i}", "behind", "bias", "read", *_names(PAST, i, PARTS)]
        makes = [f"hidden.{i + 1}", *_names("present", i, PARTS[:2])]
        yield _layer(
            layer,
            partial(go_on, layer),
            reads,
            makes,
            ("layer.1.EncDecAttention.k", "layer.1.EncDecAttention.v"),
        )
    yield _end(family.head, len(layers))


def _begin(stem: Block) -> OnnxPart:
    return OnnxPart(
        build=stem.build,
        prefix=stem.prefix,
        run=lambda module, input_ids: (stem.run(module, None, {"input_ids": input_ids}),),
        reads=["input_ids"],
        makes=["hidden.0"],
    )


def _behind(first: StackLayer, past: Sequence[str]) -> OnnxPart:
    """Return the part that says which tokens each token of the decoder reads, how far they are apart, and
    which of the encoder's states are read. `past` names keys of the cache, if there is one.
    """

    def run(
        table: nn.Module, input_ids: Tensor, encoder_attention_mask: Tensor, *keys: Tensor
    ) -> tuple[Tensor, ...]:
        new, before = input_ids.shape[1], keys[0].shape[2] if keys else 0
        places = torch.arange(new, device=input_ids.device) + before
        behind = places[:, None] >= torch.arange(before + new, device=input_ids.device)[None]
        bias = first.bias(table, places, before + new)
        return behind[None, None], bias, encoder_attention_mask[:, None, None].bool()

    return _distances(first, run, ["input_ids", "encoder_attention_mask", *past], ["behind", "bias", "read"])


def _distances(
    first: StackLayer, run: Callable[..., tuple[Tensor, ...]], reads: Sequence[str], makes: Sequence[str]
) -> OnnxPart:
    """Return a part whose module is the stack's table of relative positions."""
    return OnnxPart(
        build=lambda: first.build().get_submodule(TABLE),
        prefix=f"{first.prefix}{TABLE}.",
        run=run,
        reads=reads,
        makes=makes,
    )


def _layer(
    layer: StackLayer,
    run: Callable[..., tuple[Tensor, ...]],
    reads: Sequence[str],
    makes: Sequence[str],
    without: Sequence[str] = (),
) -> OnnxPart:
    """Return the part of a layer, which is given what its table makes, and has no linears `without`."""

    def build() -> nn.Module:
        block = layer.build().get_submodule(str(layer.index))
        attention: Any = block.get_submodule("layer.0.SelfAttention")
        attention.has_relative_attention_bias, attention.relative_attention_bias = False, None
        for path in without:
            block.set_submodule(path, nn.Identity())
        return block

    return OnnxPart(
        build=build,
        prefix=f"{layer.prefix}{layer.index}.",
        run=run,
        reads=reads,
        makes=makes,
        like="layer",
    )


def _end(head: ScoringHead, depth: int) -> OnnxPart:
    return OnnxPart(
        build=head.build,
        prefix=head.prefix,
        run=lambda module, hidden: (head.scores(module, hidden),),
        reads=[f"hidden.{depth}"],
        makes=["logits"],
    )


def _names(kind: str, layer: int, parts: Iterable[str]) -> list[str]:
    """Return the names of parts of a layer's cache."""
    return [f"{kind}.{layer}.{part}" for part in parts]


def _of_shapes(build: Callable[[], nn.Module]) -> nn.Module:
    with shapes_alone():
        return build()


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
        parts=[*_encoder(family, config)],
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
        parts=[*_decoder(family, ())],
        example=given,
        inputs=begun,
        outputs={
            "logits": tokens,
            **_axes("present", depth, "decoder_sequence_length", "encoder_sequence_length"),
        },
        towers=[],
    )
    grown = _axes("present", depth, "total_decoder_sequence_length", "encoder_sequence_length")
    past = _axes(PAST, depth, "past_decoder_sequence_length", "encoder_sequence_length")
    after = OnnxSpec(
        parts=[*_next(family)],
        example={"input_ids": ids, "encoder_attention_mask": ones, **_zeros(config, past, 7)},
        inputs={"input_ids": tokens, "encoder_attention_mask": states, **past},
        outputs={"logits": tokens, **{name: axes for name, axes in grown.items() if ".decoder." in name}},
        towers=[],
    )
    past = _axes(PAST, depth, "past_decoder_sequence_length", "past_encoder_sequence_length")
    merged = OnnxSpec(
        parts=[*_decoder(family, PARTS)],
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
