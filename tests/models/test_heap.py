"""Memory that was freed goes back to the system."""

import ctypes
import sys

import pytest

from benchmarks.speed.process import held
from epmq_export.models.heap import give_back


@pytest.mark.skipif(
    sys.platform != "linux" or not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="glibc alone keeps it"
)
def test_what_was_freed_between_what_is_held_goes_back() -> None:
    """Pieces as small as these lie beside each other on the heap, so that freeing every second one leaves
    holes that the C library keeps.
    """
    size, count = 64_000, 1000
    pieces = [b"x" * size for _ in range(count)]
    every_second = pieces[::2]
    del pieces
    before = held("self")
    give_back()
    assert held("self") < before - 0.8 * size * count / 2
    assert sum(map(len, every_second)) == size * count / 2
