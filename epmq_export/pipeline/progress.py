"""The progress of a job, told to a listener. The engine itself prints nothing."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Progress:
    """One step of a stage of a job."""

    stage: str
    """The stage that is running: `calibrate`, `write gguf`, `verify`."""

    text: str = ""
    """The step that is running. It is empty at the beginning and the end of a stage."""

    done: int = 0
    """How many steps are done."""

    total: int = 0
    """How many steps there are; 0 where that is not known."""

    state: Literal["running", "finished", "failed"] = "running"
    """A stage ends with `finished` or `failed`."""

    seconds: float = 0.0
    """The seconds since the stage began."""


Listener = Callable[[Progress], None]
Update = Callable[[str, int, int], None]
"""A function that tells about the running stage: the step, how many steps are done, and how many there
are.
"""


def ignore(progress: Progress) -> None:
    """Do nothing with the progress."""


class Stages:
    """The stages of a job, one after the other. It tells a listener about each, and keeps how long it
    took.
    """

    def __init__(self, listen: Listener = ignore) -> None:
        self._listen = listen
        self.seconds: dict[str, float] = {}
        """Seconds that each finished stage took, by its name."""

    @contextmanager
    def stage(self, name: str) -> Iterator[Update]:
        """Time a stage, and yield a function that tells about its steps. The end is told whatever ends the
        stage.
        """
        started = time.monotonic()

        def tell(text: str, done: int, total: int) -> None:
            seconds = time.monotonic() - started
            self._listen(Progress(stage=name, text=text, done=done, total=total, seconds=seconds))

        try:
            self._listen(Progress(name))
            yield tell
        except BaseException:
            self._listen(Progress(name, state="failed", seconds=time.monotonic() - started))
            raise
        self.seconds[name] = round(time.monotonic() - started, 3)
        self._listen(Progress(name, state="finished", seconds=self.seconds[name]))
