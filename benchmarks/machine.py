"""Where and when something was measured."""

import os
import platform
from datetime import UTC, datetime
from pathlib import Path

import torch


def machine(device: torch.device | None = None) -> str:
    """Return the name of a GPU, if it is one, then model and cores of the processor and torch's threads."""
    if device is not None and device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} and {machine()}"
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    model = next(
        (line.partition(":")[2].strip() for line in lines if line.startswith("model name")),
        platform.processor() or platform.machine(),
    )
    return f"{model}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def today() -> str:
    """Return the date of UTC as YYYY-MM-DD."""
    return datetime.now(UTC).strftime("%Y-%m-%d")
