"""The blocks of BERT and its like: embeddings, and transformer layers that are normalised after each residual
sum.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from converters.bert.kinds import Kind
from converters.bert.pooling import pool
from converters.bert.sentence import Sentence
from converters.shared.config import Config
from converters.shared.row_weights import first_read
from epmq_export.models.family import Batch
from epmq_export.models.shapes import shapes_alone


@dataclass(frozen=True)
class Stem:
    """Token, position and type embeddings, added and normalised."""

    kind: Kind
    config: Config
    name: str = "embeddings"
    steps: tuple[tuple[str, ...], ...] = (("LayerNorm",),)

    def build(self) -> nn.Module:
        with shapes_alone():
            return self.kind.stem(self.config).eval()

    @property
    def prefix(self) -> str:
        return f"{self.name}."

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        ids = batch["input_ids"]
        # The module's own buffers have no data, because it was built on the meta device.
        positions = torch.arange(ids.shape[1], device=ids.device)[None] + self.kind.begin(self.config)
        given = {"input_ids": ids, "position_ids": positions}
        if self.kind.types:
            first = torch.zeros_like(positions)
            given["token_type_ids"] = batch["token_type_ids"] if self.kind.reads_types else first
        result: Tensor = module(**given)
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
        with shapes_alone():
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

    kind: Kind
    config: Config
    index: int
    reads_cls_only: bool
    """Whether this is the last layer under CLS pooling, where only keys and values of the other tokens reach
    the output.
    """

    @property
    def name(self) -> str:
        return f"{self.kind.stack}.{self.index}"

    @property
    def prefix(self) -> str:
        return f"{self.name}."

    @property
    def steps(self) -> tuple[tuple[str, ...], ...]:
        return self.kind.steps

    def build(self) -> nn.Module:
        with shapes_alone():
            return self.kind.layer(self.config).eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        mask = batch["attention_mask"][:, None, None, :].bool()
        result: Tensor = module(hidden, attention_mask=mask)
        return result

    def row_weights(self, step: tuple[str, ...], batch: Batch, shape: tuple[int, int]) -> Tensor:
        weights = batch["attention_mask"].float()
        if self.reads_cls_only and step != self.steps[0]:
            weights = first_read(weights)
        return weights
