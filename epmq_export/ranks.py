"""The processes that torchrun has started for one job. Rank 0 does the job, and the others compute their
parts of its calibrations.

torch is imported where several processes meet, and not before.
"""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import timedelta
from itertools import accumulate
from typing import TYPE_CHECKING, TypeVar

from epmq_export.errors import LostRank, first_line

if TYPE_CHECKING:
    from torch import Tensor

log = logging.getLogger(__name__)
Value = TypeVar("Value")

# What torchrun alone sets: clusters set RANK and WORLD_SIZE for programs that do not ask for them, too.
_RUN, _ATTEMPT = "TORCHELASTIC_RUN_ID", "TORCHELASTIC_RESTART_COUNT"
# How long a rank waits for another one, which may merge, refine or export for hours. A rank that dies is
# noticed at once, by its closed connection; this is for a machine that vanishes without a word.
_PATIENCE = timedelta(days=1)
# How long the store of torchrun is waited for at the end.
_LAST_PATIENCE = timedelta(seconds=5)


@dataclass(frozen=True)
class Ranks:
    """The processes of one job as one of them sees them. One alone has everything, and sends nothing.

    All of them call the same methods in the same order. LostRank is raised where one of them has ended.
    """

    index: int = 0
    count: int = 1
    local: int = 0
    """The index among the processes of this machine, which is that of the process's GPU."""

    beside: int = 1
    """The number of processes on this machine."""

    def share(self, count: int, index: int | None = None) -> slice:
        """Return which of so many things belong to this rank, or to that of an index. Each belongs to one."""
        index = self.index if index is None else index
        return slice(count * index // self.count, count * (index + 1) // self.count)

    def owners(self, costs: Sequence[float]) -> list[int]:
        """Return the rank that each of several things belongs to. Those of one rank stand together, and all
        ranks' cost about as much.
        """
        total = sum(costs) or 1.0
        middles = [end - cost / 2 for end, cost in zip(accumulate(costs), costs, strict=True)]
        return [min(int(self.count * middle / total), self.count - 1) for middle in middles]

    def same(self, value: Value) -> Value:
        """Return rank 0's value, whatever this rank's is. It is pickled."""
        if self.count == 1:
            return value
        import torch
        from torch import distributed

        held = [value]
        with _heard():
            distributed.broadcast_object_list(held, src=0, device=torch.device("cpu"))
        return held[0]

    def dealt(self, parts: Sequence[Value]) -> Value:
        """Return this rank's of rank 0's parts, of which there is one for each rank. They are pickled."""
        if self.count == 1:
            return parts[0]
        from torch import distributed

        held: list[Value | None] = [None]
        with _heard():
            distributed.scatter_object_list(held, [*parts] if self.index == 0 else None, src=0)
        assert held[0] is not None
        return held[0]

    def add_up(self, tensors: Sequence["Tensor"]) -> None:
        """Put the sum over all ranks into each of the tensors. The order of its terms is always the same."""
        if self.count == 1:
            return
        from torch import distributed

        with _heard():
            for tensor in tensors:
                self._wait_for_all(tensor)
                distributed.all_reduce(tensor)

    def total(self, *numbers: float) -> list[float]:
        """Return the sum over all ranks of each number."""
        if self.count == 1:
            return [*numbers]
        import torch

        found = torch.tensor(numbers, dtype=torch.float64)
        self.add_up([found])
        return found.tolist()

    def joined(self, part: "Tensor", count: int) -> "Tensor":
        """Return a tensor of `count` rows of which each rank has its `share`."""
        if self.count == 1:
            return part
        whole = part.new_empty((count, *part.shape[1:]))
        whole[self.share(count)] = part
        for index in range(self.count):
            self.send(whole[self.share(count, index)], index)
        return whole

    def send(self, tensor: "Tensor", source: int) -> None:
        """Put the numbers of one rank's tensor, which is contiguous, into those of all others."""
        if self.count == 1 or not tensor.numel():
            return
        import torch
        from torch import distributed

        with _heard():
            self._wait_for_all(tensor)
            # Bytes, because not every dtype is known to every library that carries them.
            distributed.broadcast(tensor.flatten().view(torch.uint8), src=source)

    def _wait_for_all(self, tensor: "Tensor") -> None:
        """Wait for all ranks before they exchange what lies on GPUs, which notice no death."""
        if tensor.device.type != "cpu":
            import torch
            from torch import distributed

            distributed.all_reduce(torch.zeros(1))


ALONE = Ranks()


def here() -> Ranks:
    """Return what torchrun says of this process, or ALONE where it has not started several."""
    if _RUN not in os.environ:
        return ALONE
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE")
    return Ranks(*(int(os.environ[name]) for name in names))


@contextmanager
def met() -> Iterator[Ranks]:
    """Have all ranks together, in this context. At its end rank 0 sends None, which says that all is done."""
    ranks = here()
    if ranks.count == 1:
        yield ranks
        return
    import torch
    from torch import distributed

    gpus = torch.cuda.is_available() and distributed.is_nccl_available()
    try:
        distributed.init_process_group("cpu:gloo,cuda:nccl" if gpus else "gloo", timeout=_PATIENCE)
    except RuntimeError as error:
        raise LostRank(f"the {ranks.count} ranks of torchrun cannot meet: {first_line(error)}") from None
    try:
        yield ranks
        if ranks.index == 0:
            ranks.same(None)
    finally:
        distributed.destroy_process_group()


def told_by_another(code: int) -> int | None:
    """Return the exit code of the rank that has told why the job has ended. None where no rank has, and this
    one, which ends with `code`, is to tell it.
    """
    ranks = here()
    if ranks.count == 1:
        return None
    if "torch.distributed" not in sys.modules:
        # The ranks have not met yet, and a wrong use is found by each of them.
        return None if ranks.index == 0 or code != 2 else code
    from torch.distributed import TCPStore  # type: ignore[attr-defined]

    with suppress(RuntimeError):  # Where torchrun itself is gone, too many words are better than none.
        host, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        store = TCPStore(host, port, is_master=False, timeout=_LAST_PATIENCE)
        mine = f"{ranks.index} {code}"
        found = store.compare_set(f"epmq/end/{os.environ[_ATTEMPT]}", "", mine).decode()
        return None if found == mine else int(found.split()[1])
    return None


@contextmanager
def _heard() -> Iterator[None]:
    """Raise LostRank where torch says that another rank cannot be reached."""
    try:
        yield
    except RuntimeError as error:
        log.info("torch.distributed: %s", first_line(error))
        raise LostRank(
            "another rank has ended before its work was done; nothing half-written was left, and --resume "
            "goes on with a calibration, with any number of ranks"
        ) from None
