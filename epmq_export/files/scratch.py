"""Temporary directories that go whatever ends the process: what a killed one leaves, the next clears away."""

import os
import re
import secrets
import shutil
import tempfile
import weakref
from contextlib import suppress
from pathlib import Path
from types import TracebackType

from epmq_export.errors import OutputError
from epmq_export.files.lock import Busy, Lock, Unlockable

_BEGIN, _LOCK = "epmq-", ".lock"
_NAME = re.compile(rf"{_BEGIN}.+-[0-9a-f]{{12}}")


class Scratch:
    """A temporary directory. It goes at the end of a `with`, with the object, or at the interpreter's exit.

    A lock in it says that its process lives.
    """

    def __init__(self, use: str) -> None:
        """Make a directory whose name tells its use. Raises OutputError where the system has no room for
        it.
        """
        clear()
        made, locks = list[Path](), list[Lock]()
        # This comes first, because a signal may end the process within the next line.
        self._end = weakref.finalize(self, _remove, made, locks)
        self.path = _make(use, made, locks)

    def __enter__(self) -> Path:
        return self.path

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove the directory with all that is in it."""
        self._end()


def clear() -> None:
    """Remove the temporary directories of processes that are dead.

    One without a lock is that of a process that was killed while it made or removed it, or is about to lock
    it: then that one makes another.
    """
    with suppress(OSError), os.scandir(tempfile.gettempdir()) as entries:
        for entry in entries:
            if _NAME.fullmatch(entry.name) and entry.is_dir(follow_symlinks=False):
                with suppress(Busy, Unlockable, OSError):
                    lock = Lock(Path(entry.path, _LOCK))
                    _remove([Path(entry.path)], [lock])


def _make(use: str, made: list[Path], locks: list[Lock]) -> Path:
    """Return a new directory. It and its lock, which not every file system knows, get into the lists."""
    while True:
        made.append(Path(tempfile.gettempdir(), f"{_BEGIN}{use}-{secrets.token_hex(6)}"))
        try:
            made[-1].mkdir(mode=0o700)
            # Another process may find the lock still free, and clear the directory away.
            with suppress(Busy, FileNotFoundError):
                with suppress(Unlockable):
                    locks.append(Lock(made[-1] / _LOCK))
                return made[-1]
        except OSError as error:
            raise OutputError(f"{made[-1]}: cannot be made ({error.strerror})") from None


def _remove(made: list[Path], locks: list[Lock]) -> None:
    for path in made:
        shutil.rmtree(path, ignore_errors=True)
    for lock in locks:
        lock.release()
    for path in made:  # Windows removes no open file, so the lock had to go first.
        shutil.rmtree(path, ignore_errors=True)
