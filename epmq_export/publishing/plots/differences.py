"""The plot of the differences between two runs, by task and row of scores, with intervals of 95 %."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from epmq_export.publishing.differences import Difference, Differences
from epmq_export.publishing.plots.accuracy import MOST_TASKS, SHAPES, place_of
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
from epmq_export.publishing.report import AVERAGE
from epmq_export.publishing.words import points

_ROW = 11.0
"""The height of one row of one task, in units."""


def draw_differences(found: Differences, rows: Sequence[str], tasks: Sequence[str], key: str) -> Plot | None:
    """Return the plot, or None where nothing differs. `rows` are all rows of the first run, by which colours
    and shapes are those of the other plots. Rows in which no task differs are left out.
    """
    drawn = {row: each for row, each in found.items() if any(task.value for task in each.values())}
    if not drawn:
        return None
    own = [task for task in tasks if task != AVERAGE]
    shown = [*([AVERAGE] if AVERAGE in tasks else []), *own[:MOST_TASKS]]
    band = _ROW * (len(drawn) + 1)
    with drawing():
        labels = [shortened(task) for task in shown]
        axes = axes_of(band * len(shown), margin_of(labels), top=legend_height(len(drawn)))
        axes.axvline(0, color=colour("muted"), linewidth=0.8)
        for place, task in enumerate(shown):
            for i, (row, each) in enumerate(drawn.items()):
                height = place * band + _ROW * (i + 1)
                _draw(axes, each[task], height, place_of(row, rows), "" if place else row)
            if place:
                axes.axhline(place * band, color=colour("rule"), linewidth=0.5)
        axes.set_ylim(band * len(shown), 0)
        axes.set_xlim(*_limits(drawn, shown))
        axes.set_yticks([band * (place + 0.5) for place in range(len(shown))], labels)
        axes.set_xlabel("B less A, points")
        axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
        axes.grid(axis="x", color=colour("rule"), linewidth=0.5)
        legend(axes)
        title = "Differences by task with intervals of 95 percent"
        return Plot(svg_of(axes, key, title, _said(drawn, shown)), _caption(found, drawn, len(own)))


def _draw(axes: Axes, difference: Difference, height: float, place: int, label: str) -> None:
    """Draw one difference. Where it is of different lines, its mark is hollow and its interval dashed."""
    tint, ends = series(place), [100 * difference.low, 100 * difference.high]
    line = "solid" if difference.paired else (0, (4, 2))
    axes.plot(ends, [height, height], color=tint, linewidth=1.4, linestyle=line)
    axes.plot(
        100 * difference.value,
        height,
        SHAPES[place % len(SHAPES)],
        color=tint,
        markerfacecolor=tint if difference.paired else "none",
        markersize=6,
        label=shortened(label, 24) or None,
    )


def _limits(drawn: Differences, tasks: Sequence[str]) -> tuple[float, float]:
    """Return the ends of the axis, which has nothing on it, in points."""
    found = [each[task] for each in drawn.values() for task in tasks]
    ends = [0.0, *(100 * end for each in found for end in (each.low, each.value, each.high))]
    room = 0.05 * max(max(ends) - min(ends), 0.1)
    return min(ends) - room, max(ends) + room


def _said(drawn: Differences, tasks: Sequence[str]) -> str:
    """Return what a screen reader says of the plot."""
    first = tasks[0]
    said = (f"{row} {_interval(each, first)}" for row, each in drawn.items())
    where = "On average" if first == AVERAGE else f"On {first}"
    return f"{where}, B less A, in points: {'; '.join(said)}."


def _interval(each: Mapping[str, Difference], task: str) -> str:
    found = each[task]
    return f"{points(found.value)}, from {points(found.low)} to {points(found.high)}"


def _caption(found: Differences, drawn: Differences, tasks: int) -> str:
    """Return what the plot shows, and what it leaves out."""
    parts = ["To the right of the line B is better. The line through a mark is its interval of 95 %."]
    if not all(each.paired for row in drawn.values() for each in row.values()):
        parts.append(
            "A hollow mark with a dashed line is of scores that are not compared line by line; its interval "
            "is the wider for it."
        )
    if same := [row for row in found if row not in drawn]:
        parts.append(f"Nothing differs in {', '.join(same)}, which the plot leaves out.")
    if tasks > MOST_TASKS:
        parts.append(f"The first {MOST_TASKS} of {tasks} tasks are drawn.")
    return " ".join(parts)
