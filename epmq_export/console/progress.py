"""The progress of a job, shown on stderr: a bar on a terminal, plain lines elsewhere."""

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING

from rich.progress import (
    BarColumn,
    ProgressColumn,
    SpinnerColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
)
from rich.progress import Progress as Bar
from rich.table import Column
from rich.text import Text

from epmq_export.console.streams import is_terminal
from epmq_export.console.terminal import err, show_line, visible
from epmq_export.console.time_left import TimeLeft

if TYPE_CHECKING:  # Its room imports torch, which not every command shall wait for.
    from epmq_export.pipeline.progress import Progress

QUIET = 10.0
"""The seconds between two lines about one stage where there is no terminal."""


class ProgressDisplay:
    """A display that shows each stage as it is told of it, with the time that is left where its steps are
    counted, and leaves a line with the time that a finished stage took.
    """

    def __init__(self) -> None:
        self._bar: Bar | None = None
        self._task = TaskID(0)
        self._said = time.monotonic()
        self._left = TimeLeft()

    def __call__(self, progress: "Progress") -> None:
        """Show one step."""
        if progress.state != "running":
            self._end(progress)
        elif not progress.text:
            self._begin(progress.stage)
        else:
            self._step(progress, self._left.told(progress.done, progress.total, progress.seconds))

    def _step(self, progress: "Progress", left: str) -> None:
        if self._bar is not None:
            total = progress.total or None
            text = visible(progress.text)
            self._bar.update(self._task, description=text, completed=progress.done, total=total, left=left)
        elif time.monotonic() - self._said >= QUIET:
            self._said = time.monotonic()
            parts = [f"{progress.done} of {progress.total}"] if progress.total else []
            count = f" ({', '.join([*parts, *([left] if left else [])])})" if parts else ""
            show_line(f"{progress.stage}: {progress.text}{count}", "dim")

    def _begin(self, stage: str) -> None:
        self._said = time.monotonic()
        self._left = TimeLeft()
        if not (is_terminal(sys.stderr) and err.is_interactive):
            return
        self._bar = Bar(*bar_columns(), console=err, transient=True)
        self._task = self._bar.add_task("", total=None, stage=stage, left="")
        self._bar.start()

    def _end(self, progress: "Progress") -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
        if progress.state == "finished":
            show_line(f"{progress.stage}: {progress.seconds:.1f} s", "dim")


def bar_columns() -> Sequence[ProgressColumn]:
    """Return the columns of the bar."""
    return (
        SpinnerColumn("dots" if err.encoding.startswith("utf") else "line"),
        TextColumn("{task.fields[stage]}", style="bold", markup=False),
        BarColumn(16),
        _Step(),
        TimeElapsedColumn(),
        TextColumn("{task.fields[left]}", style="dim", markup=False),
    )


class _Step(ProgressColumn):
    """The name of the step. Where the line is too narrow it alone is cut, so that the times stay whole."""

    def __init__(self) -> None:
        super().__init__(Column(overflow="ellipsis"))

    def render(self, task: Task) -> Text:
        return Text(task.description, no_wrap=True)
