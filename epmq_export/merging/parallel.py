"""Work on pieces of tensors, on all processors that this process takes."""

from collections.abc import Callable, Hashable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from threading import RLock
from typing import TypeVar

import torch

from epmq_export import threads

T = TypeVar("T")
R = TypeVar("R")


def mapped(job: Callable[[T], R], items: Sequence[T]) -> Iterator[R]:
    """Yield what a job returns for each item, in the items' order, while threads compute those that follow.

    The job must depend on its item alone, so that nothing depends on the order in which threads come. Torch
    has its share of the processors within each of them, because more would take those of the
    others. What the job raises
    first, in the order of items, is raised here, and no further item is begun.
    """
    count = min(threads.asked(), len(items))
    if count < 2:
        yield from map(job, items)
        return
    before = torch.get_num_threads()
    own = threads.asked() // count
    pool = ThreadPoolExecutor(count, initializer=torch.set_num_threads, initargs=(own,))
    try:
        yield from pool.map(job, items)
    finally:
        pool.shutdown(cancel_futures=True)
        # The threads have set the number for those that come, too.
        torch.set_num_threads(before)


def once(compute: Callable[..., R]) -> Callable[..., R]:
    """Return a function that computes its result once for the same arguments, whichever thread asks first;
    the others wait for it.
    """
    known, lock = cache(compute), RLock()

    def result(*arguments: Hashable) -> R:
        with lock:
            return known(*arguments)

    return result
