"""A decoder language model as one module, for export. It runs the same blocks as the reference, behind a
cache of keys and values.

Inputs and outputs have the names of optimum, which transformers.js reads. The inputs are input_ids,
attention_mask, position_ids and past_key_values.N.key and .value [batch, key heads, past, width of a head].
The outputs are logits and present.N.key and .value, past and new together. A past of length 0 begins a text.
"""

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from converters.decoder.genai import FILE, genai_config
from converters.shared.blocks import Blocks
from converters.shared.config import Config, head_width
from epmq_export.models.family import Block, Family
from epmq_export.models.specs import OnnxSpec
from epmq_export.tensors.source import TensorSource

PARTS = ("key", "value")


class CachedLayer(Block, Protocol):
    """A layer that can run behind a cache."""

    def go_on(
        self,
        module: nn.Module,
        hidden: Tensor,
        positions: Tensor,
        places: Tensor,
        attention_mask: Tensor,
        past: object | None,
    ) -> Tensor:
        """Return the next hidden state of the new tokens, which stand at `places` among all, behind those of
        the cache.
        """
        ...


class ScoringHead(Block, Protocol):
    """A head that scores all rows."""

    def scores(self, module: nn.Module, hidden: Tensor) -> Tensor:
        """Return the scores of all tokens, [batch, length, vocabulary]."""
        ...


class CachedFamily(Family, Protocol):
    """A family whose layers can run behind a cache."""

    @property
    def stem(self) -> Block: ...

    @property
    def layers(self) -> Sequence[CachedLayer]: ...

    @property
    def head(self) -> ScoringHead: ...

    @property
    def ends(self) -> frozenset[int]: ...


class _Cache:
    """A cache for one pass, with the method that transformers' attention calls."""

    def __init__(self, past: list[tuple[Tensor, Tensor]]) -> None:
        self._past = past
        self.present: dict[int, tuple[Tensor, Tensor]] = {}

    def update(self, key: Tensor, value: Tensor, layer: int, *_: object) -> tuple[Tensor, Tensor]:
        self.present[layer] = (
            torch.cat((self._past[layer][0], key), 2),
            torch.cat((self._past[layer][1], value), 2),
        )
        return self.present[layer]


class Generator(Blocks):
    """A module that returns logits, float32 [batch, new, vocabulary], and then the cache."""

    def __init__(self, family: CachedFamily, source: TensorSource) -> None:
        super().__init__(source, family.blocks)
        self._family = family

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, position_ids: Tensor, *cached: Tensor
    ) -> tuple[Tensor, ...]:
        stem, layers, head = self._family.stem, self._family.layers, self._family.head
        cache = _Cache([(cached[2 * layer], cached[2 * layer + 1]) for layer in range(len(layers))])
        places = torch.arange(input_ids.shape[1], device=input_ids.device) + cached[0].shape[2]
        hidden = stem.run(self.part(stem.prefix), None, {"input_ids": input_ids})
        for layer in layers:
            hidden = layer.go_on(self.part(layer.prefix), hidden, position_ids, places, attention_mask, cache)
        logits = head.scores(self.part(head.prefix), hidden)
        return (logits, *(tensor for layer in range(len(layers)) for tensor in cache.present[layer]))


def name(kind: str, layer: int, part: str) -> str:
    """Return the name of a part of the cache."""
    return f"{kind}.{layer}.{part}"


def onnx_spec(family: CachedFamily, config: Config) -> OnnxSpec:
    """Return the model, with its config's sizes of the cache."""
    shape = (2, config.num_key_value_heads, 3, head_width(config))
    # Two texts of two new tokens behind three: the exporter takes an axis of length 0 or 1 for a constant.
    example = {
        "input_ids": torch.ones(2, 2, dtype=torch.int64),
        "attention_mask": torch.ones(2, 5, dtype=torch.int64),
    }
    example["position_ids"] = torch.tensor([[3, 4]] * 2)
    inputs = {
        "input_ids": {0: "batch_size", 1: "sequence_length"},
        "attention_mask": {0: "batch_size", 1: "total_sequence_length"},
    }
    inputs["position_ids"] = {0: "batch_size", 1: "sequence_length"}
    outputs = {"logits": {0: "batch_size", 1: "sequence_length"}}
    for layer in range(config.num_hidden_layers):
        for part in PARTS:
            example[name("past_key_values", layer, part)] = torch.zeros(shape)
            inputs[name("past_key_values", layer, part)] = {0: "batch_size", 2: "past_sequence_length"}
            outputs[name("present", layer, part)] = {0: "batch_size", 2: "total_sequence_length"}
    return OnnxSpec(
        build=lambda source: Generator(family, source),
        example=example,
        inputs=inputs,
        outputs=outputs,
        towers=[family],
        beside=lambda model: {FILE: genai_config(family.name, config, family.ends, model)},
    )
