"""Matrices that are another matrix plus a product of two thin factors, as an adapter makes them, and the way
to ask a source for the factors.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

# Factors whose product may have a length beyond this are not used: squares of it are no float32.
_LONGEST = 1e18


@dataclass(frozen=True)
class LowRank:
    """The matrix [out, in] that is the product of two factors, float32."""

    left: Tensor
    """[out, r]"""

    right: Tensor
    """[r, in]"""

    @property
    def shape(self) -> tuple[int, int]:
        return self.left.shape[0], self.right.shape[1]

    @property
    def rank(self) -> int:
        """Return the number of columns of the left factor, which is the most that the rank can be."""
        return self.left.shape[1]

    def dense(self) -> Tensor:
        """Return the matrix itself."""
        return self.left @ self.right

    def times(self, columns: Tensor) -> Tensor:
        """Return the product with a matrix [in, columns]."""
        return self.left @ (self.right @ columns)

    def to(self, device: torch.device) -> "LowRank":
        """Return the same matrix on a device."""
        return LowRank(self.left.to(device), self.right.to(device))

    def rows(self, rows: slice) -> "LowRank":
        """Return some rows of the matrix."""
        return LowRank(self.left[rows], self.right)

    def norm(self) -> Tensor:
        """Return the Frobenius norm, float64 []."""
        return row_products(self, self).sum().clamp(min=0).sqrt()

    def plain(self) -> bool:
        """Return whether all numbers of the factors are finite, and those of the product sure to be."""
        return float(self.left.norm()) * float(self.right.norm()) < _LONGEST


@dataclass(frozen=True)
class Change:
    """How a matrix of a source is made of another one."""

    origin: Callable[[], Tensor]
    """A function that reads the other one, in its stored dtype."""

    product: LowRank
    """What is added to it in float32."""


def row_products(first: Tensor | LowRank, second: Tensor | LowRank) -> Tensor:
    """Return the product of each row of a matrix with the same row of another, summed in float64, float64
    [out].
    """
    if isinstance(first, LowRank) and isinstance(second, LowRank):
        inner = first.right.double() @ second.right.double().T
        return (first.left.double() @ inner * second.left.double()).sum(1)
    if isinstance(second, LowRank):
        return row_products(second, first)
    if isinstance(first, LowRank):
        return (second @ first.right.T * first.left).sum(1, dtype=torch.float64)
    return (first * second).sum(1, dtype=torch.float64)


def low_rank_change(source: object, name: str) -> Change | None:
    """Return how a source makes a matrix of another one, or None where it is not known to."""
    ask = getattr(source, "low_rank_change", None)
    return None if ask is None else ask(name)


def added_to(source: object, name: str, origin: Tensor) -> LowRank | None:
    """Return what a source adds to a matrix, as factors, where it makes its own of this very one, float32;
    else None. Factors whose product may be no finite float32 are not returned.
    """
    change = low_rank_change(source, name)
    if change is None or not change.product.plain() or not torch.equal(change.origin().float(), origin):
        return None
    return change.product


def stacked(parts: Sequence[LowRank]) -> LowRank:
    """Return the sum of matrices, whose rank is at most the sum of theirs."""
    return LowRank(torch.cat([part.left for part in parts], 1), torch.cat([part.right for part in parts]))
