"""Runtimes in processes of their own, because libraries in C abort the process on some bad files, and take
any amount of memory and time.
"""

import errno
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import numpy as np
from numpy.typing import NDArray

from epmq_export import threads
from epmq_export.errors import InputError, OutputError
from epmq_export.files.scratch import Scratch

_ROOT = Path(__file__).parents[3]
_OFFLINE = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
"""What keeps the hub's libraries from a network: everything that is run lies here."""

_NOT_TAKEN = 5
"""The exit code of a process whose answer the disk did not take."""

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}
"""What the system says of a disk that takes no more."""


Answer = TypeVar("Answer")


def own_module(name: str) -> tuple[str, ...]:
    """Return the command that runs a module of this project, which calls `serve`."""
    return (sys.executable, "-m", name)


@dataclass(frozen=True)
class Program:
    """A program that runs a library in a process of its own. Its last argument is the file of the request."""

    runtime: str
    """The name of the runtime in messages."""

    command: Sequence[str]
    """What starts it, without the request."""

    telling: Sequence[str]
    """Patterns, the most informative first. The group of the first pattern that fits a line of the log says
    what went wrong.
    """

    foreign: bool = False
    """Whether it knows nothing of this project, as a program of another environment does. Its memory is then
    bounded from outside, where the system can do so, and `memory` counts the data that it writes to.
    """

    def answers(
        self,
        model: Path,
        requests: Sequence[Mapping[str, Any]],
        load: Callable[[Path], Answer],
        *,
        memory: int,
        seconds: float,
    ) -> list[Answer]:
        """Return what `load` reads from the files that the module writes, with a process for each request,
        all at once.

        `memory`, in bytes of address space, and `seconds` bound each process. Raises InputError, with the
        runtime's own words, where one gives no answer.
        """
        with Scratch("runtime") as folder, ExitStack() as stack:
            workers = [
                stack.enter_context(_Worker(self, folder / str(index), request, memory, seconds))
                for index, request in enumerate(requests)
            ]
            return [load(worker.result(model)) for worker in workers]


class _Worker:
    """One process of a program. It is killed where the block of the context ends before it does."""

    def __init__(
        self, program: Program, folder: Path, request: Mapping[str, Any], memory: int, seconds: float
    ) -> None:
        """Start the process. `folder` is made, for the request, the answer and the log.

        Raises OutputError where the disk has no room for them.
        """
        self.program, self.memory, self.seconds = program, memory, seconds
        self.deadline = time.monotonic() + seconds
        self.answer, self.log = folder / "result", folder / "log"
        asked = folder / "request.json"
        try:
            folder.mkdir()
            asked.write_text(
                json.dumps({**request, "memory": memory, "result": str(self.answer)}), encoding="utf-8"
            )
            self.log.touch()
        except OSError as error:
            raise OutputError(f"{folder}: cannot be written ({error.strerror})") from None
        path = os.pathsep.join(filter(None, (str(_ROOT), os.environ.get("PYTHONPATH"))))
        # A backtrace of ggml would start a debugger, which takes seconds.
        own = {"PYTHONPATH": path, "GGML_NO_BACKTRACE": "1"}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*program.command, str(asked)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env={**os.environ, **(_OFFLINE if program.foreign else own)},
                # Foreign programs may start others, which have to end with them.
                start_new_session=program.foreign,
            )
        if program.foreign:
            _limit_data(self.process.pid, memory)

    def __enter__(self) -> "_Worker":
        return self

    def __exit__(self, *_: object) -> None:
        if self.program.foreign and hasattr(os, "killpg"):
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(self.process.pid, signal.SIGKILL)
        self.process.kill()
        self.process.wait()

    def result(self, model: Path) -> Path:
        """Return the file with the answer. Raises InputError, with the runtime's own words, where there is
        none, and OutputError where the disk did not take it, which is no fault of the model.
        """
        runtime = self.program.runtime
        try:
            code = self.process.wait(max(0.0, self.deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            raise InputError(
                f"{model}: {runtime} gave no answer within {self.seconds:.0f} s and was stopped"
            ) from None
        if code == _NOT_TAKEN:  # Its log has no room for words, either.
            raise OutputError(f"{self.answer}: cannot be written: is the disk full?")
        if code != 0:
            how = (
                "fails" if code > 0 else f"died ({_signal(-code)}; it may take {self.memory / 2**30:.1f} GiB)"
            )
            told = _told(self.log.read_text(encoding="utf-8", errors="replace"), self.program.telling)
            raise InputError(f"{model}: {runtime} {how}: {told}")
        return self.answer


def serve(handle: Callable[[Mapping[str, Any], Path], None]) -> NoReturn:
    """Be the process of a `Program`: read the request that the command line names, bound this process's
    memory, and let `handle` write the answer, given the request and the place of the answer.

    The process exits with 0, with 1 and one line for the parent, which adds the name of the file, or with
    another code where the disk takes no answer.
    """
    request = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    limit(request["memory"])
    try:
        handle(request, Path(request["result"]))
    except Exception as error:  # Libraries raise whatever they like.
        if isinstance(error, OSError) and error.errno in _FULL:
            sys.exit(_NOT_TAKEN)
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    sys.exit(0)


def write_array(path: Path, values: NDArray[np.float32]) -> None:
    """Write an answer as .npy, under the name that it is given."""
    content = io.BytesIO()
    np.save(content, values)
    path.write_bytes(content.getbuffer())  # numpy itself says of a full disk only how much it could write.


def read_array(path: Path) -> NDArray[np.float32]:
    """Return the answer that `write_array` wrote."""
    found: NDArray[np.float32] = np.load(path, allow_pickle=False)
    return found


def shares(samples: Sequence[Any], least: int) -> list[Sequence[Any]]:
    """Return consecutive parts of the samples, at most one for each processor. Each has about `least`
    samples or more, because fewer are not worth a process.
    """
    count = max(1, min(threads.asked(), -(-len(samples) // least)))
    ends = [len(samples) * index // count for index in range(count + 1)]
    return [samples[start:end] for start, end in pairwise(ends)]


def limit(memory: int) -> None:
    """Bound this process's address space and prevent core files, where the system can do so."""
    try:
        import resource
    except ImportError:  # Windows
        return
    for kind, value in ((resource.RLIMIT_AS, memory), (resource.RLIMIT_CORE, 0)):
        hard = resource.getrlimit(kind)[1]
        with suppress(ValueError, OSError):  # macOS knows RLIMIT_AS but refuses to set it.
            resource.setrlimit(kind, (value if hard == resource.RLIM_INFINITY else min(value, hard), hard))


def _limit_data(process: int, memory: int) -> None:
    """Bound the data of a process that has just started, where the system can do so. Its address space is
    not bounded: JavaScript's engines reserve far more of it than they use.
    """
    if sys.platform != "linux":
        return
    import resource

    with suppress(ProcessLookupError, PermissionError, ValueError):
        resource.prlimit(process, resource.RLIMIT_DATA, (memory, memory))


def _signal(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"signal {number}"


def _told(log: str, telling: Sequence[str]) -> str:
    """Return what the most informative pattern finds in a log, else the last line of the log."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for pattern in telling:
        if found := next((match[1] for match in (re.search(pattern, line) for line in lines) if match), None):
            return found
    return lines[-1] if lines else "it said nothing"
