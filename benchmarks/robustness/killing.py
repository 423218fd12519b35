"""Runs of a function in a process of its own that is killed on the way: before one of the calls by which it
writes, or after some processor time.

A kill is one that the process hears nothing of. Calls are seen by an audit hook, which Python calls before it
opens a file to write, renames, removes, and makes a directory. Between two of them only the content of files
that are not yet under their names can change.
"""

import os
import signal
import sys
import traceback
import warnings
from collections.abc import Callable
from pathlib import Path

_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
# These change names. The first argument is the path.
_NAMES = {"os.mkdir", "os.rename", "os.remove", "os.rmdir", "os.link", "os.symlink", "os.truncate"}


Job = Callable[[], object]


def run(job: Job, said: Path, before: int | None = None, seconds: float | None = None) -> int:
    """Run a job as `start` does, to its end.

    Returns 0 where the job ended, -9 where it was killed, and 1 where it raised; `said` has the traceback.
    """
    return code_of(os.waitpid(start(job, said, before, seconds), 0)[1])


def code_of(status: int) -> int:
    """Return what `run` does, by the status that the system gives of a process."""
    return -signal.SIGKILL if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def start(job: Job, said: Path, before: int | None = None, seconds: float | None = None) -> int:
    """Run a job in a forked process that is killed before the call of number `before`, counted from 1, or
    after so many seconds of processor time. What it says goes into the file `said`. Returns its number.
    """
    with warnings.catch_warnings():
        # Python warns of forks beside threads; those of torch wait for work here, and are not used.
        warnings.simplefilter("ignore", DeprecationWarning)
        child = os.fork()
    if child:
        return child
    code = 1
    try:
        handle = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(handle, 1)
        os.dup2(handle, 2)
        if before is not None:
            _count(lambda number: os.kill(os.getpid(), signal.SIGKILL) if number == before else None)
        if seconds is not None:
            # Nobody listens to this signal, so it ends the process as a kill does.
            signal.signal(signal.SIGPROF, signal.SIG_DFL)
            signal.setitimer(signal.ITIMER_PROF, seconds)
        job()
        code = 0
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def calls(job: Job, said: Path) -> int:
    """Return how many writing calls a job makes, run in a process of its own. Raises RuntimeError where it
    does not end well.
    """
    count = said.with_suffix(".count")

    def counted() -> None:
        numbers = [0]
        _count(lambda number: numbers.__setitem__(0, number))
        job()
        made = numbers[0]
        count.write_text(str(made))

    if run(counted, said) != 0:
        raise RuntimeError(f"the job failed: {said.read_text(encoding='utf-8')}")
    return int(count.read_text())


def _count(seen: Callable[[int], object]) -> None:
    """Call a function with the number of each writing call before it is made, until the process ends."""
    number = 0

    def hook(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal number
        if _of_a_result(event, arguments):
            number += 1
            seen(number)

    sys.addaudithook(hook)


def _of_a_result(event: str, arguments: tuple[object, ...]) -> bool:
    """Return whether a call writes. What Python compiles for itself does not count: only the first process
    that imports a module does it.
    """
    if event not in _NAMES and (event != "open" or not _writes(arguments[0], arguments[2])):
        return False
    return "__pycache__" not in str(arguments[0])


def _writes(path: object, flags: object) -> bool:
    """Return whether a file is opened to be written. Devices do not count, nor do open files."""
    return (
        isinstance(path, str | os.PathLike)
        and not os.fspath(path).startswith("/dev/")
        and isinstance(flags, int)
        and bool(flags & _WRITING)
    )
