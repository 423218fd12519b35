"""The k-th largest of more numbers than fit in memory, exactly."""

from collections.abc import Callable, Iterator

import torch
from torch import Tensor

# float32 numbers >= 0 have the order of their bits, read as integers of 31 bits. The first pass counts the
# upper 16 bits. The second counts the lower 15 bits of the numbers in the bin that the first pass found.
_LOW_BITS = 15
_HIGH, _LOW = 1 << 16, 1 << _LOW_BITS
_PIECE = 1 << 22


def kth_largest(stream: Callable[[], Iterator[Tensor]], k: int, size: int) -> float:
    """Return the k-th largest of the `size` numbers in all 1-D float32 tensors, finite and >= 0, that
    `stream` yields each time it is called.

    The result is infinity for k = 0, and 0 for k >= size, because as thresholds these keep nothing and
    everything. The stream is read twice.
    """
    if k <= 0:
        return float("inf")
    if k >= size:
        return 0.0
    high, above = _find(_count(stream, lambda bits: bits >> _LOW_BITS, _HIGH), k)
    low, _ = _find(_count(stream, lambda bits: bits[bits >> _LOW_BITS == high] & (_LOW - 1), _LOW), k - above)
    return float(torch.tensor((high << _LOW_BITS) | low, dtype=torch.int32).view(torch.float32))


def _count(stream: Callable[[], Iterator[Tensor]], bin_of: Callable[[Tensor], Tensor], bins: int) -> Tensor:
    counts = torch.zeros(bins, dtype=torch.int64)
    for numbers in stream():
        for piece in torch.split(numbers.contiguous().view(torch.int32), _PIECE):
            counts += torch.bincount(bin_of(piece), minlength=bins)
    return counts


def _find(counts: Tensor, k: int) -> tuple[int, int]:
    """Return the bin that holds the k-th largest, and how many numbers are in the bins above it."""
    reached = counts.flip(0).cumsum(0)
    place = int(torch.searchsorted(reached, k))
    return len(counts) - 1 - place, int(reached[place] - counts.flip(0)[place])
