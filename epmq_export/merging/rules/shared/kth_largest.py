"""The k-th largest of more numbers than fit in memory, exactly."""

from collections.abc import Callable, Iterable, Sequence
from typing import Protocol, TypeVar

import numpy as np
import torch
from torch import Tensor

T = TypeVar("T")
R = TypeVar("R")
Numbers = Callable[[T], Tensor]

# A sample of the pieces says about where the k-th largest is. The numbers whose ranks are nearest to its are
# sorted: a share of _NEAR on both sides, and of very many numbers about _WANTED. No more than _MOST are kept.
_PIECES, _STRIDE = 128, 16
_NEAR, _WANTED, _MOST = 0.01, 1 << 23, 1 << 26
# float32 numbers >= 0 have the order of their bits, read as integers of 31 bits. The first pass counts the
# upper 16 bits. The second counts the lower 15 bits of the numbers in the bin that the first pass found.
_LOW_BITS = 15
# The numbers that are counted at a time, because counting makes wider ones of them.
_STEP = 1 << 22
_HIGH, _LOW = 1 << 16, 1 << _LOW_BITS


class Mapped(Protocol):
    """A way to call a function with each item of a sequence and to yield what it returns, in their order."""

    def __call__(self, job: Callable[[T], R], items: Sequence[T], /) -> Iterable[R]: ...


def kth_largest(pieces: Sequence[T], numbers: Numbers[T], k: int, size: int, mapped: Mapped = map) -> float:
    """Return the k-th largest of the `size` numbers in all pieces, 1-D float32 tensors, finite and >= 0, that
    `numbers` returns each time it is called with a piece. `mapped` may call it from several threads.

    The result is infinity for k = 0, and 0 for k >= size, because as thresholds these keep nothing and
    everything. Some pieces are read first; then all are read once or, where the sample has misled, three
    times.
    """
    if k <= 0:
        return float("inf")
    if k >= size:
        return 0.0
    near = min(_NEAR, _WANTED / size)
    low, high = _bounds(pieces, numbers, k / size, near, mapped)
    found = _within(pieces, numbers, k, low, high, mapped)
    return _by_bits(pieces, numbers, k, mapped) if found is None else found


def _bounds(
    pieces: Sequence[T], numbers: Numbers[T], share: float, near: float, mapped: Mapped
) -> tuple[float, float]:
    """Return two numbers between which the one that `share` of all exceed is likely to be, and not many more
    than twice the share `near` of all.
    """
    some = pieces[:: -(-len(pieces) // _PIECES)]
    parts = mapped(lambda piece: numbers(piece)[::_STRIDE].clone(), some)
    sample = torch.cat([*parts]).sort(descending=True).values
    first, last = int((share - near) * len(sample)), int((share + near) * len(sample))
    return (
        float(sample[last]) if last < len(sample) else 0.0,
        float(sample[first]) if first > 0 else float("inf"),
    )


def _within(
    pieces: Sequence[T], numbers: Numbers[T], k: int, low: float, high: float, mapped: Mapped
) -> float | None:
    """Return the k-th largest where it is between two numbers, and few others are; else None."""

    def parted(piece: T) -> tuple[int, Tensor]:
        # numpy compares and picks several times as fast as torch.
        value = numbers(piece).numpy()
        return int(np.count_nonzero(value > high)), torch.from_numpy(value[(value >= low) & (value <= high)])

    above, held = 0, 0
    near: list[Tensor] = []
    for larger, between in mapped(parted, pieces):
        above += larger
        near.append(between)
        held += len(between)
        if held > _MOST:
            return None
    rank = k - above
    return float(torch.cat(near).sort(descending=True).values[rank - 1]) if 0 < rank <= held else None


def _by_bits(pieces: Sequence[T], numbers: Numbers[T], k: int, mapped: Mapped = map) -> float:
    """Return the k-th largest by counting bits, however the numbers are spread."""

    def count(bin_of: Callable[[Tensor], Tensor], bins: int) -> Tensor:
        def counted(piece: T) -> Tensor:
            counts = torch.zeros(bins, dtype=torch.int64)
            for bits in torch.split(numbers(piece).contiguous().view(torch.int32), _STEP):
                counts += torch.bincount(bin_of(bits), minlength=bins)
            return counts

        total = torch.zeros(bins, dtype=torch.int64)
        for counts in mapped(counted, pieces):
            total += counts
        return total

    high, above = _find(count(lambda bits: bits >> _LOW_BITS, _HIGH), k)
    low, _ = _find(count(lambda bits: bits[bits >> _LOW_BITS == high] & (_LOW - 1), _LOW), k - above)
    return float(torch.tensor((high << _LOW_BITS) | low, dtype=torch.int32).view(torch.float32))


def _find(counts: Tensor, k: int) -> tuple[int, int]:
    """Return the bin that holds the k-th largest, and how many numbers are in the bins above it."""
    reached = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(reached, k))
    return len(counts) - 1 - place, int(reached[place] - counts.flip(0)[place])
