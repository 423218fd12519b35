"""Standard input, output and error as commands need them: in any locale, in pipes, and where one is
closed.
"""

import codecs
import io
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from typing import NoReturn, TextIO

from epmq_export.errors import OutputError

ANY_TEXT = "epmq-any-text"
"""The name of the error handler that writes any text in any encoding."""


class ReaderGone(Exception):
    """Whoever read the results has stopped reading, as `| head -1` does."""


def prepare() -> None:
    """Make the three streams usable whatever the caller has given.

    A closed one leads nowhere, so that no file of ours gets its number, into which a library would then
    print. Results are written in any encoding, and a reader that is gone raises ReaderGone. Progress and log
    are lost where nobody takes them: they are no reason to end a job.
    """
    codecs.register_error(ANY_TEXT, _in_any_encoding)
    _open_closed()
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout = _Results(sys.stdout)
    if isinstance(sys.stderr, io.TextIOWrapper):
        sys.stderr = _Messages(sys.stderr)


@contextmanager
def hushed() -> Iterator[None]:
    """Print nothing in this context, whatever prints: it is another process that tells."""
    with (
        Path(os.devnull).open("w", encoding="utf-8") as nowhere,
        redirect_stdout(nowhere),
        redirect_stderr(nowhere),
    ):
        yield


def is_terminal(stream: TextIO | None) -> bool:
    """Return whether a person reads the stream, whatever FORCE_COLOR says."""
    return stream is not None and not stream.closed and stream.isatty()


def _open_closed() -> None:
    for number, mode in enumerate("rww"):
        try:
            os.fstat(number)
        except OSError:
            # The lowest free number is taken, and all lower ones are open.
            os.open(os.devnull, os.O_RDONLY if mode == "r" else os.O_WRONLY)
    nowhere = Path(os.devnull)
    sys.stdin = sys.stdin or nowhere.open(encoding="utf-8")
    sys.stdout = sys.stdout or nowhere.open("w", encoding="utf-8")
    sys.stderr = sys.stderr or nowhere.open("w", encoding="utf-8")


def _in_any_encoding(error: UnicodeError) -> tuple[bytes, int]:
    """Return the bytes for a character that an encoding lacks, and where to go on: an escape, or the very
    byte of a file's name that is no text.
    """
    assert isinstance(error, UnicodeEncodeError)
    letter = error.object[error.start]
    if "\udc80" <= letter <= "\udcff":
        return bytes([ord(letter) - 0xDC00]), error.start + 1
    return letter.encode("ascii", "backslashreplace"), error.start + 1


class _Stream(io.TextIOWrapper):
    """A standard stream whose failures are handled where they happen."""

    def __init__(self, stream: io.TextIOWrapper) -> None:
        """Take the place of a stream that Python has made."""
        stream.flush()
        super().__init__(
            stream.buffer,
            encoding=stream.encoding,
            errors=ANY_TEXT,
            line_buffering=stream.line_buffering,
            write_through=stream.write_through,
        )
        self._replaced = stream  # It would close the buffer when it goes.

    def write(self, text: str, /) -> int:
        try:
            return super().write(text)
        except OSError as error:
            self._give_up(error)
            return len(text)

    def flush(self) -> None:
        try:
            super().flush()
        except OSError as error:
            self._give_up(error)

    def _give_up(self, error: OSError) -> None:
        """Lead the stream nowhere, because what waits in it would fail again at the end."""
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, self.fileno())
        os.close(nowhere)


class _Results(_Stream):
    """Standard output."""

    def _give_up(self, error: OSError) -> NoReturn:
        super()._give_up(error)
        if isinstance(error, BrokenPipeError):
            raise ReaderGone from None
        raise OutputError(f"standard output: cannot be written ({error.strerror})") from None


class _Messages(_Stream):
    """Standard error."""
