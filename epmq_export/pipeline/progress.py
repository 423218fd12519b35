"""How far a job is, told to whoever listens. The engine itself prints nothing."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Progress:
    """One step of a stage of a job."""

    stage: str
    """What is under way: `calibrate`, `write gguf`, `verify`."""

    text: str = ""
    """What exactly is being done; empty at the stage's beginning and end."""

    done: int = 0
    """How many steps are done."""

    total: int = 0
    """How many steps there are; 0 where that is not known."""

    state: Literal["running", "finished", "failed"] = "running"
    """`finished` and `failed` are a stage's last word."""

    seconds: float = 0.0
    """Seconds since the stage began."""


Listener = Callable[[Progress], None]
Update = Callable[[str, int, int], None]
"""Tells of a stage under way: what is being done, how many steps are done, and of how many."""


def ignore(progress: Progress) -> None:
    """Listen to nothing."""


class Stages:
    """The stages of a job, one after the other: tells a listener of each, and keeps how long it took."""

    def __init__(self, listen: Listener = ignore) -> None:
        self._listen = listen
        self.seconds: dict[str, float] = {}
        """Seconds that each finished stage took, by its name."""

    @contextmanager
    def stage(self, name: str) -> Iterator[Update]:
        """Time a stage and yield what tells of its steps. Its end is told whatever ends it."""
        started = time.monotonic()

        def tell(text: str, done: int, total: int) -> None:
            self._listen(Progress(name, text, done, total, seconds=time.monotonic() - started))

        try:
            self._listen(Progress(name))
            yield tell
        except BaseException:
            self._listen(Progress(name, state="failed", seconds=time.monotonic() - started))
            raise
        self.seconds[name] = round(time.monotonic() - started, 3)
        self._listen(Progress(name, state="finished", seconds=self.seconds[name]))
