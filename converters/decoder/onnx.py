"""A decoder language model as the parts of an ONNX model. They run the same blocks as the reference, behind a
cache of keys and values.

Inputs and outputs have the names of optimum, which transformers.js reads. The inputs are input_ids,
attention_mask, position_ids and past_key_values.N.key and .value [batch, key heads, past, width of a head].
The outputs are logits and present.N.key and .value, past and new together. A past of length 0 begins a text.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor, nn

from converters.decoder.genai import FILE, genai_config
from converters.shared.config import Config, head_width
from epmq_export.models.family import Block, Family
from epmq_export.models.specs import OnnxPart, OnnxSpec

PARTS = ("key", "value")


class CachedLayer(Block, Protocol):
    """A layer that can run behind a cache."""

    @property
    def attends(self) -> str | None:
        """Return the kind of its attention, where the model has more than one."""
        ...

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
    """A layer's keys and values for one pass, with the method that transformers' attention calls."""

    def __init__(self, *past: Tensor) -> None:
        self._past = past
        self.present: tuple[Tensor, Tensor]

    def update(self, key: Tensor, value: Tensor, *_: object) -> tuple[Tensor, Tensor]:
        self.present = (torch.cat((self._past[0], key), 2), torch.cat((self._past[1], value), 2))
        return self.present


def _stem(stem: Block, module: nn.Module, input_ids: Tensor, keys: Tensor) -> tuple[Tensor, Tensor]:
    """Return the first hidden state, and the places of the new tokens among all tokens."""
    places = torch.arange(input_ids.shape[1], device=input_ids.device) + keys.shape[2]
    return stem.run(module, None, {"input_ids": input_ids}), places


def _go_on(
    layer: CachedLayer,
    module: nn.Module,
    hidden: Tensor,
    position_ids: Tensor,
    places: Tensor,
    attention_mask: Tensor,
    *past: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return the next hidden state, and the layer's keys and values, past and new together."""
    cache = _Cache(*past)
    return layer.go_on(module, hidden, position_ids, places, attention_mask, cache), *cache.present


def _score(head: ScoringHead, module: nn.Module, hidden: Tensor) -> tuple[Tensor]:
    return (head.scores(module, hidden),)


def _parts(family: CachedFamily) -> Iterator[OnnxPart]:
    """Yield the embeddings, a part for each layer, and the head."""
    stem, layers, head = family.stem, family.layers, family.head
    yield OnnxPart(
        build=stem.build,
        prefix=stem.prefix,
        run=partial(_stem, stem),
        reads=["input_ids", name("past_key_values", 0, "key")],
        makes=["hidden.0", "places"],
    )
    for i, layer in enumerate(layers):
        past, present = ([name(kind, i, part) for part in PARTS] for kind in ("past_key_values", "present"))
        yield OnnxPart(
            build=layer.build,
            prefix=layer.prefix,
            run=partial(_go_on, layer),
            reads=[f"hidden.{i}", "position_ids", "places", "attention_mask", *past],
            makes=[f"hidden.{i + 1}", *present],
            like=f"layer of {layer.attends or 'one kind'}",
        )
    yield OnnxPart(
        build=head.build,
        prefix=head.prefix,
        run=partial(_score, head),
        reads=[f"hidden.{len(layers)}"],
        makes=["logits"],
    )


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
        parts=[*_parts(family)],
        example=example,
        inputs=inputs,
        outputs=outputs,
        towers=[family],
        beside=lambda model: {FILE: genai_config(family.name, config, family.ends, model)},
    )
