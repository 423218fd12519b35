"""The plot of scores by task: base, experts, merged, reference and each file, with intervals of 95 %."""

from collections.abc import Sequence

from matplotlib.axes import Axes

from epmq_export.publishing.plots.canvas import (
    Plot,
    axes_of,
    colour,
    drawing,
    legend,
    legend_height,
    margin_of,
    series,
    shortened,
    svg_of,
)
from epmq_export.publishing.report import AVERAGE, UNROUNDED, Report
from epmq_export.publishing.words import percent

MOST_TASKS = 24
"""The tasks that are drawn at most; the table has all."""

SHAPES = ("o", "^", "D", "s", "v", "P", "X", "*")
"""The shape of each row, so that no colour is needed to tell it."""

_ROW = 9.0
"""The height of one row of one task, in units."""


def place_of(row: str, rows: Sequence[str]) -> int:
    """Return which colour and shape a row of scores has. The others have the same ones whether or not the
    model before its rounding is among them.
    """
    if row == UNROUNDED:
        return len(rows) - 1
    return [other for other in rows if other != UNROUNDED].index(row)


def draw_accuracy(report: Report, key: str) -> Plot | None:
    """Return the plot, or None where the report has no scores."""
    if not report.scores:
        return None
    tasks, rows = [AVERAGE, *report.tasks[:MOST_TASKS]], report.rows
    band = _ROW * (len(rows) + 1)
    with drawing():
        labels = [shortened(task) for task in tasks]
        axes = axes_of(band * len(tasks), margin_of(labels), top=legend_height(len(rows)))
        for place, task in enumerate(tasks):
            _draw_task(axes, report, task, place * band)
        axes.set_ylim(band * len(tasks), 0)
        axes.set_yticks([band * (place + 0.5) for place in range(len(tasks))], labels)
        axes.set_xlim(*_limits(report, tasks))
        axes.set_xlabel("score, percent")
        axes.grid(axis="x", color=colour("rule"), linewidth=0.5)
        legend(axes)
        title = "Scores by task with intervals of 95 percent"
        return Plot(svg_of(axes, key, title, _said(report)), _caption(report))


def _draw_task(axes: Axes, report: Report, task: str, top: float) -> None:
    for i, row in enumerate(report.rows):
        value, (low, high) = report.scores[row][task], report.intervals[row][task]
        height, place = top + _ROW * (i + 1), place_of(row, report.rows)
        axes.plot([100 * low, 100 * high], [height, height], color=series(place), linewidth=1.2)
        axes.plot(
            100 * value,
            height,
            SHAPES[place % len(SHAPES)],
            color=series(place),
            markerfacecolor="none" if row == "base" else series(place),
            markersize=5.5,
            label=shortened(row, 24) if task == AVERAGE else None,
        )
    if top:
        axes.axhline(top, color=colour("rule"), linewidth=0.5)


def _limits(report: Report, tasks: list[str]) -> tuple[float, float]:
    """Return the ends of the axis, in percent."""
    ends = [100 * end for row in report.rows for task in tasks for end in report.intervals[row][task]]
    ends += [100 * report.scores[row][task] for row in report.rows for task in tasks]
    margin = 0.03 * max(max(ends) - min(ends), 1.0)
    return min(ends) - margin, max(ends) + margin


def _said(report: Report) -> str:
    """Return what a screen reader says of the plot."""
    means = (f"{row} {percent(scores[AVERAGE])}" for row, scores in report.scores.items())
    return f"On average over {len(report.tasks)} tasks, in percent: {', '.join(means)}."


def _caption(report: Report) -> str:
    left = len(report.tasks) - MOST_TASKS
    more = f" The first {MOST_TASKS} of {len(report.tasks)} tasks are drawn." if left > 0 else ""
    return (
        "Each mark is a score, and the line through it its interval of 95 %. Experts are each judged on "
        f"their own task.{more}"
    )
