"""The memory that has been freed and that the C library keeps."""

import ctypes
from collections.abc import Callable
from functools import cache


def give_back() -> None:
    """Give the system the memory back that has been freed, where the C library can (glibc).

    glibc keeps what is freed, and finds the place of the next tensor in it as it happens: without this, a
    process holds the more the more steps it has done, although each needs as much as the one before.
    """
    if (trim := _trim()) is not None:
        trim(0)


@cache
def _trim() -> Callable[[int], int] | None:
    """Return glibc's malloc_trim, or None where the C library is another one."""
    try:
        return getattr(ctypes.CDLL(None), "malloc_trim", None)
    except (OSError, TypeError):  # The second is Windows', which has no library without a name.
        return None
