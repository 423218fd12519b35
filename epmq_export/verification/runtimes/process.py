"""Runtimes in processes of their own: libraries in C abort the process on some bad files, and take what
memory and time they like.
"""

import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from epmq_export.errors import InputError

_ROOT = Path(__file__).parents[3]


class Worker:
    """One process of a module that is given a request as JSON and writes a file; killed where its block ends
    first.

    The request gets `memory`, for `limit`, and `result`, the file to write.
    """

    def __init__(
        self,
        runtime: str,
        module: str,
        folder: Path,
        request: Mapping[str, Any],
        *,
        memory: int,
        seconds: float,
    ) -> None:
        """`runtime` is its name for messages; `folder` is made, for the request, the answer and the log."""
        folder.mkdir()
        self.runtime, self.memory, self.seconds = runtime, memory, seconds
        self.deadline = time.monotonic() + seconds
        self.answer, self.log = folder / "result", folder / "log"
        asked = folder / "request.json"
        asked.write_text(
            json.dumps({**request, "memory": memory, "result": str(self.answer)}), encoding="utf-8"
        )
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", module, str(asked)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={
                    **os.environ,
                    "PYTHONPATH": path,
                    "GGML_NO_BACKTRACE": "1",
                },  # it would start a debugger, for seconds
            )

    def __enter__(self) -> "Worker":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()

    def result(self, model: Path, telling: Sequence[str]) -> Path:
        """The file with the answer; InputError, with the runtime's own words, where it gives none.

        `telling` are patterns, the most telling first: the first line of the log that one fits says what went
        wrong, by its group.
        """
        try:
            code = self.process.wait(max(0.0, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise InputError(
                f"{model}: {self.runtime} gave no answer within {self.seconds:.0f} s and was stopped"
            ) from None
        if code != 0:
            how = (
                "fails" if code > 0 else f"died ({_signal(-code)}; it may take {self.memory / 2**30:.1f} GiB)"
            )
            raise InputError(
                f"{model}: {self.runtime} {how}: "
                f"{_told(self.log.read_text(encoding='utf-8', errors='replace'), telling)}"
            )
        return self.answer


def limit(memory: int) -> None:
    """Bound this process's address space, and leave no core file behind; where the system has such bounds."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for kind, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        with suppress(ValueError, OSError):  # macOS knows RLIMIT_AS and refuses to set it
            resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _told(log: str, telling: Sequence[str]) -> str:
    """What the most telling pattern finds in a log, else its last line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for pattern in telling:
        if found := next((match[1] for match in (re.search(pattern, line) for line in lines) if match), None):
            return found
    return lines[-1] if lines else "it said nothing"
