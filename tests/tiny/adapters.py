"""Adapters in memory, as sources that know their factors."""

from collections.abc import Mapping

import torch
from torch import Tensor

from epmq_export.tensors.low_rank import Change, LowRank
from tests.tiny.in_memory import InMemory


class Adapter(InMemory):
    """A base with products of factors added to some of its matrices, in float32."""

    def __init__(self, base: Mapping[str, Tensor], products: Mapping[str, LowRank]) -> None:
        changed = {name: base[name].float() + product.dense() for name, product in products.items()}
        super().__init__({**base, **changed})
        self._base, self._products = base, products

    def low_rank_change(self, name: str) -> Change | None:
        shape = self.shape(name)
        if len(shape) != 2:
            return None
        nothing = LowRank(torch.zeros(shape[0], 0), torch.zeros(0, shape[1]))
        return Change(lambda: self._base[name].clone(), self._products.get(name, nothing))


def random_product(shape: tuple[int, int], rank: int, seed: int, size: float = 1.0) -> LowRank:
    """Return a product whose entries are about `size`."""
    generator = torch.Generator().manual_seed(seed)
    left = torch.randn(shape[0], rank, generator=generator) * size / max(rank, 1) ** 0.5
    return LowRank(left, torch.randn(rank, shape[1], generator=generator))
