"""The part of the page that compares two runs by task."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from epmq_export.publishing.report import AVERAGE, Report
from epmq_export.publishing.tables import Table
from epmq_export.publishing.words import percent, points


@dataclass(frozen=True)
class Difference:
    """How far the score of run B is above that of run A, as a share, with its interval of 95 %."""

    value: float
    low: float
    high: float
    paired: bool
    """Whether the interval is that of two models which answer the same lines. Otherwise it takes the two
    scores for independent, and is the wider one where they are not.
    """


Differences = Mapping[str, Mapping[str, Difference]]
"""The differences by row of scores and by task, those of the mean over tasks under `average`."""


def shared_tasks(one: Report, other: Report) -> list[str]:
    """Return the tasks that both runs have, and behind them `average` where they have the same ones."""
    tasks = [task for task in one.tasks if task in other.tasks]
    return [*tasks, AVERAGE] if tasks and {*one.tasks} == {*other.tasks} else tasks


def shared_rows(one: Report, other: Report) -> list[str]:
    """Return the rows of scores that both runs have."""
    return [row for row in one.rows if row in other.scores]


def told_tables(one: Report, other: Report, found: Differences) -> list[Table]:
    """Return the tables of the differences: first all of them, then one for each row with both scores and
    their intervals.
    """
    if not found:
        return []
    tasks = shared_tasks(one, other)
    told = [[task, *(points(each[task].value) for each in found.values())] for task in tasks]
    return [
        Table("Scores of B less those of A, in points", ["task", *found], told, shown=True),
        *(_row(one, other, row, tasks, each) for row, each in found.items()),
    ]


def _row(
    one: Report, other: Report, row: str, tasks: Sequence[str], found: Mapping[str, Difference]
) -> Table:
    """Return the differences of a row of scores, with both scores."""
    lines = []
    for task in tasks:
        each = found[task]
        intervals = (
            f"{percent(low)} to {percent(high)}"
            for low, high in (one.intervals[row][task], other.intervals[row][task])
        )
        lines.append(
            [
                task,
                percent(one.scores[row][task]),
                percent(other.scores[row][task]),
                points(each.value),
                f"{points(each.low)} to {points(each.high)}",
                "the same" if each.paired else "apart",
                *intervals,
            ]
        )
    head = ["task", "A", "B", "B − A, points", "95 % interval", "lines", "95 % interval of A", "of B"]
    return Table(f"{row}: scores in percent", head, lines)
