"""The k-th largest magnitude against sorting."""

import struct

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from epmq_export.merging.rules.shared.kth_largest import kth_largest

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
    found = kth_largest(lambda: iter(tensors), k, len(numbers))
    if k == 0:
        assert found == float("inf")
    elif k >= len(numbers):
        assert found == 0.0
    else:
        assert found == float(numbers.sort(descending=True).values[k - 1])


def test_pieces_longer_than_one_step_are_counted_whole() -> None:
    numbers = torch.randperm((1 << 22) + 1000, generator=torch.Generator().manual_seed(1)).float()
    assert kth_largest(lambda: iter([numbers]), 1234, len(numbers)) == len(numbers) - 1234
