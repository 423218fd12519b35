"""The signals that end a command: Ctrl-C, those of batch systems and containers, a terminal that closes."""

import _thread
import signal
import sys
import time
from types import FrameType

from epmq_export.ranks import here

_ENDING = [
    getattr(signal, name) for name in ("SIGINT", "SIGTERM", "SIGHUP", "SIGBREAK") if hasattr(signal, name)
]
_ECHO = 1.0
"""The seconds in which a signal is the first one's echo: some senders address a process and its group."""


class Interruption:
    """What is heard of signals. Each ends the command as Ctrl-C does, with everything cleared away.

    The exception that ends it may get lost: Python ignores whatever is raised while an object dies or garbage
    is collected, and libraries drop exceptions that they do not expect. So a thread asks again and again
    whether the command is on its way out, and has the exception raised again where it is not.
    """

    def __init__(self) -> None:
        """Listen. What the caller has turned off, as nohup and a shell's background jobs do, stays off."""
        self.heard: signal.Signals | None = None
        self._when = 0.0
        self._asked = self._ended = False
        for number in _ENDING:
            if signal.getsignal(number) in (signal.SIG_DFL, signal.default_int_handler):
                signal.signal(number, self._hear)

    def end(self) -> None:
        """Let the thread that asks end: the exception has arrived where it is told of. Of several ranks each
        is deaf from now on, since torchrun signals all others when one has ended.
        """
        self._ended = True
        if here().count > 1:
            for number in _ENDING:
                signal.signal(number, signal.SIG_IGN)

    def _hear(self, number: int, frame: FrameType | None) -> None:
        asked, self._asked = self._asked, False
        # Whatever clears up, a `with` or a `finally`, does so while the exception is handled.
        if asked and (self._ended or sys.exc_info()[1] is not None):
            return
        if self.heard is None:
            self.heard = signal.Signals(number)
            # The module `threading` takes locks, which the code that the signal interrupts may hold.
            _thread.start_new_thread(self._ask, (self.heard,))
        elif not asked and time.monotonic() - self._when < _ECHO:
            return
        self._when = time.monotonic()
        raise KeyboardInterrupt

    def _ask(self, number: signal.Signals) -> None:
        """Let the main thread hear the signal again and again, until the end."""
        while True:
            time.sleep(_ECHO)
            if self._ended:
                return
            self._asked = True
            _thread.interrupt_main(number)

    @property
    def code(self) -> int:
        """Return the exit code that a shell gives a program that this signal ends."""
        return 128 + (self.heard or signal.SIGINT)

    @property
    def sentence(self) -> str:
        """Return what is told of it."""
        by = "" if self.heard in (None, signal.SIGINT) else f" by {self.heard.name}"
        if by and here().count > 1:
            by += ", as torchrun ends all ranks when one has ended"
        return f"interrupted{by}; nothing half-written was left, and --resume goes on with a calibration"
