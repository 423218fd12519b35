"""Whole processes, and parts of this one, watched."""

import os
import re
import resource
import subprocess
import time
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

Rows = dict[str, dict[str, Any]]
"""What was measured, by job and then by tool: a `summary`, or `seconds` alone."""


@dataclass(frozen=True)
class Run:
    """What a process took."""

    seconds: float
    processor: float
    """Seconds of the processor, user and system."""

    own: int
    """The most bytes of memory that the process held at once, without mapped files (Linux)."""


def watched(
    command: Sequence[str | Path],
    environment: Mapping[str, str] | None = None,
    codes: Container[int] = (0,),
) -> Run:
    """Run a command to its end. Raises RuntimeError, with the end of what it said, where it ends with none of
    these exit codes.
    """
    before, started, most = resource.getrusage(resource.RUSAGE_CHILDREN), time.monotonic(), 0
    with subprocess.Popen(
        [*map(str, command)],
        env={**os.environ, **(environment or {})},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        while process.poll() is None:
            most = max(most, held(process.pid))
            time.sleep(0.02)
        seconds = time.monotonic() - started
        assert process.stdout is not None
        said = process.stdout.read()
    if process.returncode not in codes:
        raise RuntimeError(f"{' '.join(map(str, command))} ended with {process.returncode}: {said[-2000:]}")
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    processor = after.ru_utime - before.ru_utime + after.ru_stime - before.ru_stime
    return Run(seconds, processor, most)


def held(process: int | str) -> int:
    """Return the bytes of memory that a process holds now, without mapped files (Linux)."""
    status = Path(f"/proc/{process}/status").read_text(encoding="utf-8")
    found = re.search(r"RssAnon:\s+(\d+) kB", status)
    return int(found[1]) * 1024 if found else 0


class Stopwatch:
    """The time that this process spends in its contexts, and the most memory that it holds where they end."""

    def __init__(self) -> None:
        self.run = Run(0.0, 0.0, 0)

    @contextmanager
    def __call__(self) -> Iterator[None]:
        """Count what is done in this context."""
        seconds, processor = time.monotonic(), time.process_time()
        yield
        self.run = Run(
            self.run.seconds + time.monotonic() - seconds,
            self.run.processor + time.process_time() - processor,
            max(self.run.own, held("self")),
        )


def alternating(jobs: Mapping[str, Callable[[], Run]], repeats: int) -> dict[str, dict[str, float]]:
    """Run all jobs in turn, several times; return the summary of each."""
    runs: dict[str, list[Run]] = {name: [] for name in jobs}
    for _ in range(repeats):
        for name, job in jobs.items():
            runs[name].append(job())
    return {name: summary(each) for name, each in runs.items()}


def summary(runs: Sequence[Run]) -> dict[str, float]:
    """Return medians over runs, and the least and the most seconds."""
    seconds = [run.seconds for run in runs]
    return {
        **{key: median(asdict(run)[key] for run in runs) for key in ("seconds", "processor", "own")},
        "least": min(seconds),
        "most": max(seconds),
    }
