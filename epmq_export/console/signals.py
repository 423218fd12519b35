"""The signals that end a command: Ctrl-C, those of batch systems and containers, a terminal that closes."""

import signal
import time
from types import FrameType

_ENDING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
]
_ECHO = 1.0
"""The seconds in which a signal is the first one's echo: some senders address a process and its group."""


class Interruption:
    """What is heard of signals. Each ends the command as Ctrl-C does, with everything cleared away."""

    def __init__(self) -> None:
        """Listen. What the caller has turned off, as nohup and a shell's background jobs do, stays off."""
        self.heard: signal.Signals | None = None
        self._when = 0.0
        for number in _ENDING:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, self._hear)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        if self.heard is not None and time.monotonic() - self._when < _ECHO:
            return
        self.heard, self._when = self.heard or signal.Signals(number), time.monotonic()
        raise KeyboardInterrupt

    @property
    def code(self) -> int:
        """Return the exit code that a shell gives a program that this signal ends."""
        return 128 + (self.heard or signal.SIGINT)

    @property
    def sentence(self) -> str:
        """Return what is told of it."""
        by = "" if self.heard in (None, signal.SIGINT) else f" by {self.heard.name}"
        return f"interrupted{by}; nothing half-written was left, and --resume goes on with a calibration"
