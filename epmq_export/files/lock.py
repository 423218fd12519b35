"""Locks on files: one process at a time has one, and death frees it."""

import errno
import os
import sys
from contextlib import suppress
from pathlib import Path

_UNSUPPORTED = {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP, errno.EINVAL}
"""What a file system without locks says."""

_TAKEN = {errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK}
"""What the system says where another process has the lock."""


class Busy(Exception):
    """Another process has the lock."""

    def __init__(self, holder: str) -> None:
        super().__init__(holder)
        self.holder = holder
        """The other process as a message names it: `process 4711`."""


class Unlockable(Exception):
    """The file system knows no locks."""


class Lock:
    """A lock on a file of its own that says which process has it. The file goes with the lock."""

    def __init__(self, file: Path) -> None:
        """Take the lock, or raise Busy or Unlockable at once. Raises OSError where it cannot be opened."""
        self.file = file
        while True:
            self._handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
            try:
                if not _lock(self._handle):
                    raise Busy(_holder(self._handle))
                if _is(self._handle, file):
                    with suppress(OSError):  # A full disk takes no number, and the lock holds without it.
                        os.ftruncate(self._handle, 0)
                        os.write(self._handle, str(os.getpid()).encode())
                    return
            except BaseException:
                os.close(self._handle)
                raise
            os.close(self._handle)  # Its last holder has removed the file meanwhile.

    def release(self) -> None:
        """Remove the file and free the lock. Windows removes no open file, so there the order is another."""
        if sys.platform == "win32":
            os.close(self._handle)
        try:
            self.file.unlink(missing_ok=True)
        except OSError:  # On Windows another process looks at it, or the directory has become read-only.
            pass
        finally:
            if sys.platform != "win32":
                os.close(self._handle)


def _lock(handle: int) -> bool:
    """Lock an open file for this process, without waiting. Return False where another has it."""
    try:
        if sys.platform == "win32":
            import msvcrt

            os.lseek(handle, 1 << 30, os.SEEK_SET)  # Others can read what is not locked: the number.
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
            os.lseek(handle, 0, os.SEEK_SET)
        else:
            import fcntl

            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in _UNSUPPORTED:
            raise Unlockable from None
        if error.errno in _TAKEN:
            return False
        raise
    return True


def _holder(handle: int) -> str:
    os.lseek(handle, 0, os.SEEK_SET)
    number = os.read(handle, 32).decode("ascii", "replace").strip()
    return f"process {number}" if number.isdigit() else "another process"


def _is(handle: int, file: Path) -> bool:
    """Return whether an open file is still the one of that name."""
    try:
        return os.path.samestat(os.fstat(handle), file.stat())
    except FileNotFoundError:
        return False
