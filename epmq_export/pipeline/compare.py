"""The differences between the scores of two runs, from their reports.

Runs that were judged on the same lines are compared line by line. Of others, and of scores that a report does
not have line by line, only each score's own interval is known; the two are then taken for independent
(Newcombe 1998: R. G. Newcombe, Interval estimation for the difference between independent proportions,
Statistics in Medicine 17, 873-890, method 10).
"""

import math

import numpy as np

from epmq_export.publishing.differences import Difference, Differences, shared_rows, shared_tasks
from epmq_export.publishing.report import AVERAGE, Report
from epmq_export.verification.statistics.lines import Graded, Lines, Right, mean_drop

ROUNDING = 1e-5
"""How far the mean of lines that a report has to six digits may be from their score."""


def compare(one: Report, other: Report) -> Differences:
    """Return how far the scores of another run are above those of a run, for the rows and tasks that both
    have.
    """
    tasks = shared_tasks(one, other)
    rows = shared_rows(one, other) if tasks else []
    return {row: _of_row(one, other, row, tasks) for row in rows}


def _of_row(one: Report, other: Report, row: str, tasks: list[str]) -> dict[str, Difference]:
    paired: dict[str, tuple[Lines, Lines]] = {}
    found: dict[str, Difference] = {}
    for task in tasks:
        lines = (_lines(one, row, task), _lines(other, row, task))
        if task != AVERAGE and _same_lines(one, other, task) and _alike(*lines):
            first, second = lines
            assert first is not None and second is not None
            paired[task] = (first, second)
            drop = first.drop(second)
            found[task] = Difference(drop.value, *drop.interval, paired=True)
        elif task == AVERAGE and paired.keys() == {*one.tasks}:
            drop = mean_drop(
                {name: pair[0] for name, pair in paired.items()},
                {name: pair[1] for name, pair in paired.items()},
            )
            found[task] = Difference(drop.value, *drop.interval, paired=True)
        else:
            found[task] = _independent(one, other, row, task)
    return found


def _same_lines(one: Report, other: Report, task: str) -> bool:
    """Return whether both runs say what they judged a task on, and it is the same."""
    known = one.evaluated.get(task)
    return known is not None and known == other.evaluated.get(task)


def _alike(first: Lines | None, second: Lines | None) -> bool:
    """Return whether two models have as many lines of one kind."""
    match first, second:
        case Right(), Right():
            return len(first.right) == len(second.right)
        case Graded(), Graded():
            return len(first.values) == len(second.values)
        case _:
            return False


def _lines(report: Report, row: str, task: str) -> Lines | None:
    """Return what a row makes of the lines of a task, or None where the report does not have it: the order of
    rank correlations needs the right numbers, and the mean of a language model's tokens theirs.
    """
    told = report.answers.get(row, {}).get(task)
    if not told:
        return None
    if isinstance(told, str):
        return Right(np.array([digit == "1" for digit in told]))
    lines = Graded.each(np.array(told))
    return lines if abs(lines.value - report.scores[row][task]) <= ROUNDING else None


def _independent(one: Report, other: Report, row: str, task: str) -> Difference:
    """Return the difference of two scores with the interval that their own intervals give."""
    first, second = one.scores[row][task], other.scores[row][task]
    (low, high), (other_low, other_high) = one.intervals[row][task], other.intervals[row][task]
    value = second - first
    return Difference(
        value=value,
        low=value - math.hypot(second - other_low, high - first),
        high=value + math.hypot(other_high - second, first - low),
        paired=False,
    )
