"""What the machine itself can do, to hold everything else against."""

import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch

from epmq_export.models.precision import fast_bfloat16


def best(job: Callable[[], object], repeats: int = 3) -> float:
    """Return the least seconds of some runs of a job, after one that does not count."""
    job()
    taken = []
    for _ in range(repeats):
        started = time.perf_counter()
        job()
        taken.append(time.perf_counter() - started)
    return min(taken)


def rates(folder: Path, size: int) -> dict[str, float]:
    """Return products a second in float32, bfloat16 and float64 (GFLOP/s) of matrices [size, size], and bytes
    a second that are copied in memory and written to a file (GB/s), of 16 such matrices.
    """
    found = {}
    for dtype in (torch.float32, torch.bfloat16, torch.float64):
        # A processor that emulates bfloat16 would take minutes for large products.
        slow = dtype == torch.bfloat16 and not fast_bfloat16(torch.device("cpu"))
        side = min(size, 256) if slow else size
        left, right = torch.randn(side, side).to(dtype), torch.randn(side, side).to(dtype)
        name = f"products in {str(dtype).removeprefix('torch.')}, GFLOP/s"
        found[name] = 2 * side**3 / best(partial(torch.matmul, left, right)) / 1e9
    source, target = torch.ones(16, size, size), torch.empty(16, size, size)
    count = source.numel() * source.itemsize
    found["copying in memory, GB/s"] = count / best(lambda: target.copy_(source)) / 1e9
    file, data = folder / "written", source.numpy().tobytes()
    found["writing a file, GB/s"] = count / best(lambda: file.write_bytes(data)) / 1e9
    file.unlink()
    return found
