"""The blocks of BERT: embeddings, and transformer layers that are normalised after each residual sum."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import BertConfig
from transformers.models.bert.modeling_bert import BertEmbeddings, BertLayer

from converters.bert.pooling import pool
from converters.bert.sentence import Sentence
from converters.shared.row_weights import first_read
from epmq_export.models.family import Batch


@dataclass(frozen=True)
class Stem:
    """Token, position and type embeddings, added and normalised."""

    config: BertConfig
    name: str = "embeddings"
    steps: tuple[tuple[str, ...], ...] = (("LayerNorm",),)

    def build(self) -> nn.Module:
        with torch.device("meta"):
            return BertEmbeddings(self.config).eval()  # type: ignore[no-untyped-call]

    @property
    def prefix(self) -> str:
        return f"{self.name}."

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        ids = batch["input_ids"]
        # The module's own buffer has no data, because it was built on the meta device.
        positions = torch.arange(ids.shape[1], device=ids.device)[None]
        result: Tensor = module(input_ids=ids, token_type_ids=batch["token_type_ids"], position_ids=positions)
        return result

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        return batch["attention_mask"].float()


@dataclass(frozen=True)
class Pooled:
    """The pooled row of each text behind sentence-transformers' Dense modules, [batch, 1, width]. Nothing in
    it is calibrated.
    """

    sentence: Sentence
    name: str = "pooled"
    prefix: str = ""
    steps: tuple[tuple[str, ...], ...] = ()

    def build(self) -> nn.Module:
        with torch.device("meta"):
            module = nn.Module()
            for dense in self.sentence.dense:
                inner = nn.Module()
                inner.linear = nn.Linear(dense.given, dense.made, bias=dense.bias)
                module.add_module(dense.place, inner)
            return module.eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        assert hidden is not None
        found = pool(hidden, batch["attention_mask"], self.sentence.modes)[:, None]
        for dense in self.sentence.dense:
            activation: nn.Module = getattr(nn, dense.activation)()
            found = activation(module.get_submodule(f"{dense.place}.linear")(found))
        return found

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        return torch.ones(shape)


@dataclass(frozen=True)
class Layer:
    """One transformer layer, normalised after each residual sum."""

    config: BertConfig
    index: int
    reads_cls_only: bool
    """Whether this is the last layer under CLS pooling, where only keys and values of the other tokens reach
    the output.
    """

    steps: tuple[tuple[str, ...], ...] = (
        ("attention.self.query", "attention.self.key", "attention.self.value"),
        ("attention.output.dense",),
        ("attention.output.LayerNorm",),
        ("intermediate.dense",),
        ("output.dense",),
        ("output.LayerNorm",),
    )

    @property
    def name(self) -> str:
        return f"encoder.layer.{self.index}"

    @property
    def prefix(self) -> str:
        return f"{self.name}."

    def build(self) -> nn.Module:
        with torch.device("meta"):
            return BertLayer(self.config).eval()  # type: ignore[no-untyped-call]

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        mask = batch["attention_mask"][:, None, None, :].bool()
        result: Tensor = module(hidden, attention_mask=mask)
        return result

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        weights = batch["attention_mask"].float()
        if self.reads_cls_only and "attention.self.key" not in step:
            weights = first_read(weights)
        return weights
