"""The k-th largest magnitude against sorting."""

import struct

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from epmq_export.merging.rules.shared.kth_largest import _by_bits, kth_largest

FLOATS = st.floats(0, width=32, allow_nan=False, allow_infinity=False)
NEAR = st.integers(0, 40).map(
    lambda step: struct.unpack("<f", struct.pack("<I", 0x3F800000 + step))[0]
)  # neighbours, subnormals below
TINY = st.integers(0, 3).map(lambda step: struct.unpack("<f", struct.pack("<I", step))[0])


@settings(max_examples=100)
@given(
    st.lists(st.lists(st.one_of(FLOATS, NEAR, TINY, st.just(0.0)), max_size=12), min_size=1, max_size=4),
    st.data(),
)
def test_it_is_what_sorting_gives(pieces: list[list[float]], data: st.DataObject) -> None:
    tensors = [torch.tensor(piece) for piece in pieces]
    numbers = torch.cat(tensors)
    k = data.draw(st.integers(0, len(numbers) + 1))
    found = kth_largest(tensors, lambda piece: piece, k, len(numbers))
    if k == 0:
        assert found == float("inf")
    elif k >= len(numbers):
        assert found == 0.0
    else:
        assert found == float(numbers.sort(descending=True).values[k - 1])


def shuffled(size: int) -> torch.Tensor:
    return torch.randperm(size, generator=torch.Generator().manual_seed(1)).float()


@pytest.mark.parametrize("k", [1, 100, 123456, 800000, 1599999])
def test_numbers_in_no_order_are_read_once_behind_the_sample(k: int) -> None:
    size = 1600000
    pieces = [*shuffled(size).split(1600)]
    read: list[int] = []

    def piece(place: int) -> torch.Tensor:
        read.append(place)
        return pieces[place]

    found = kth_largest(range(len(pieces)), piece, k, size)
    assert found == size - k
    assert len(read) < 1.2 * len(pieces)


@pytest.mark.parametrize("k", [1, 1234, 39999])
def test_a_sample_that_misleads_changes_nothing(k: int) -> None:
    """Every piece that is sampled holds the smallest numbers."""
    numbers = torch.arange(40000.0)
    pieces = [*numbers.flip(0)[:39744].split(184)]
    small = [*numbers[:256].split(2)]
    mixed = [piece for place in range(128) for piece in (small[place], *pieces[2 * place : 2 * place + 2])]
    assert len(torch.cat(mixed)) == 40000
    assert kth_largest(mixed, lambda piece: piece, k, 40000) == 40000 - k


def test_pieces_longer_than_one_step_are_counted_whole() -> None:
    numbers = shuffled((1 << 22) + 1000)
    assert _by_bits([numbers], lambda piece: piece, 1234) == len(numbers) - 1234
