"""The layers of MPNet, which add to the scores of their attention what a table has for the distance of two
tokens. All layers have one table.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn

from converters.bert.blocks import Layer
from converters.bert.names import TABLE
from converters.shared.distances import DISTANCE, by_distance
from converters.shared.library import module_class
from epmq_export.models.family import Batch, Block
from epmq_export.models.shapes import shapes_alone
from epmq_export.models.specs import OnnxPart

_ADDED = "position_bias"


@dataclass(frozen=True)
class RelativeLayer(Layer):
    """One layer, which is given what the table adds with the batch."""

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        assert hidden is not None
        read = batch["attention_mask"][:, None, None, :].bool()
        # The library's code adds masks to scores.
        unread = torch.where(read, 0.0, torch.finfo(hidden.dtype).min)
        result: Tensor = module(hidden, attention_mask=unread, position_bias=batch[_ADDED])[0]
        return result


@dataclass(frozen=True)
class TabledLayer(RelativeLayer):
    """One layer with the table."""

    @property
    def prefix(self) -> str:
        return TABLE.removesuffix(self._table)

    @property
    def steps(self) -> tuple[tuple[str, ...], ...]:
        return tuple(tuple(f"{self._path}.{module}" for module in step) for step in super().steps)

    @property
    def alone(self) -> RelativeLayer:
        """Return the layer without the table."""
        return RelativeLayer(self.kind, self.config, self.index, self.reads_cls_only)

    @property
    def _table(self) -> str:
        return TABLE.rpartition(".")[2]

    @property
    def _path(self) -> str:
        return self.name.removeprefix(self.prefix)

    def build(self) -> nn.Module:
        stack, number = self._path.split(".")
        layers = nn.ModuleDict({number: super().build()})
        return nn.ModuleDict({stack: layers, self._table: self.build_table()}).eval()

    def build_table(self) -> nn.Module:
        rows = self.config.relative_attention_num_buckets
        with shapes_alone():
            return nn.Embedding(rows, self.config.num_attention_heads).eval()

    def run(self, module: nn.Module, hidden: Tensor | None, batch: Batch) -> Tensor:
        added = _added(module.get_submodule(self._table), batch["attention_mask"])
        return super().run(module.get_submodule(self._path), hidden, {**batch, _ADDED: added})


def table_once(blocks: Sequence[Block]) -> tuple[list[Block], list[OnnxPart]]:
    """Return the blocks without a table in each layer, and the parts of an ONNX model that make what these
    layers are given beside the batch. Of other blocks, the blocks themselves and no part.
    """
    found = [block for block in blocks if isinstance(block, TabledLayer)]
    parts = [
        OnnxPart(
            build=layer.build_table,
            prefix=TABLE + ".",
            run=lambda table, attention_mask: (_added(table, attention_mask),),
            reads=["attention_mask"],
            makes=[_ADDED],
        )
        for layer in found[:1]
    ]
    return [block.alone if isinstance(block, TabledLayer) else block for block in blocks], parts


def _added(table: nn.Module, attention_mask: Tensor) -> Tensor:
    """Return what the table adds to the scores of texts, [1, heads, length, length]."""
    length = attention_mask.shape[1]
    places = torch.arange(length, device=attention_mask.device)
    return by_distance(table, _buckets(), places, length)


@cache
def _buckets() -> Tensor:
    """Return the row of the table for each distance."""
    encoder: Any = module_class("mpnet", "MPNetEncoder")
    found: Tensor = encoder.relative_position_bucket(torch.arange(-DISTANCE, DISTANCE + 1))
    return found
