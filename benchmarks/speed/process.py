"""Whole processes, watched."""

import os
import re
import resource
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median


@dataclass(frozen=True)
class Run:
    """What a process took."""

    seconds: float
    processor: float
    """Seconds of the processor, user and system."""

    own: int
    """The most bytes of memory that the process held at once, without mapped files (Linux)."""


def watched(command: Sequence[str | Path], environment: Mapping[str, str] | None = None) -> Run:
    """Run a command to its end. Raises RuntimeError, with the end of what it said, where it fails."""
    before, started, most = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic(), 0
    with subprocess.Popen(
        [*map(str, command)],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        status = Path(f"/proc/{process.pid}/status")
        while process.poll() is None:
            held = re.search(r"RssAnon:\s+(\d+) kB", status.read_text(encoding="utf-8"))
            most = max(most, int(held[1]) * 1024 if held else 0)
            time.sleep(0.02)
        seconds = time.monotonic() - started
        assert process.stdout is not None
        said = process.stdout.read()
    if process.returncode:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {process.returncode}: {said[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Run(seconds, processor, most)


def summary(runs: Sequence[Run]) -> dict[str, float]:
    """Return medians over runs, and the least and the most seconds."""
    seconds = [run.seconds for run in runs]
    return {
        **{key: median(asdict(run)[key] for run in runs) for key in ("seconds", "processor", "own")},
        "least": min(seconds),
        "most": max(seconds),
    }
