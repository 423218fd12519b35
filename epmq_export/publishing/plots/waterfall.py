"""The plot of where the score was lost, as a waterfall from the experts to each file."""

from matplotlib.axes import Axes

from epmq_export.publishing.plots.canvas import (
    FONT,
    Plot,
    axes_of,
    colour,
    drawing,
    margin_of,
    shortened,
    svg_of,
)
from epmq_export.publishing.report import AVERAGE, Report
from epmq_export.publishing.steps import Step, change, steps_of
from epmq_export.publishing.words import percent, points

_ROW = 26.0


def draw_waterfall(report: Report, key: str) -> Plot | None:
    """Return the plot, or None where the report has no scores to tell steps of."""
    steps = steps_of(report)
    if not steps:
        return None
    with drawing():
        rows = [("experts", None), *((_name(step), step) for step in steps)]
        labels = [shortened(name, 24).replace(" and ", "\nand ") for name, _ in rows]
        axes = axes_of(_ROW * len(rows), margin_of("\n".join(labels).split("\n")), right=44)
        scores = [report.scores[row][AVERAGE] for step in steps for row in (step.begin, step.end)]
        span = 100 * max(max(scores) - min(scores), 0.01)
        axes.set_xlim(100 * min(scores) - 0.08 * span, 100 * max(scores) + 0.12 * span)
        start = 100 * report.scores[steps[0].begin][AVERAGE]
        axes.plot([start, start], [-0.3, 0.3], color=colour("ink"), linewidth=3)
        _write(axes, start, 0, percent(start / 100))
        for place, step in enumerate(steps, start=1):
            _draw(axes, report, step, place)
        axes.set_ylim(len(rows) - 0.5, -0.5)
        axes.set_yticks(range(len(rows)), labels)
        axes.set_xlabel("average score, percent")
        axes.grid(axis="x", color=colour("rule"), linewidth=0.5)
        said = ", ".join(f"{_name(step)} {points(change(report, step))}" for step in steps)
        return Plot(
            svg_of(
                axes,
                key,
                "Where the score was lost",
                f"From the experts' {percent(start / 100)} percent, in points: {said}.",
            ),
            "From the experts' average score to each file's, step by step, in points. A hatched bar is a "
            "loss, a plain one a gain, and a thick line a score. Each runtime begins at the reference.",
        )


def _name(step: Step) -> str:
    if step.begin != "reference":
        return step.name
    return step.name.partition(" in ")[2] or step.name


def _draw(axes: Axes, report: Report, step: Step, place: int) -> None:
    """Draw one step as a bar from where it begins to where it ends."""
    begin, end = (100 * report.scores[row][AVERAGE] for row in (step.begin, step.end))
    loss = end < begin
    axes.plot([begin, begin], [place - 1 + 0.3, place + 0.3], color=colour("muted"), linewidth=0.8)
    axes.barh(
        place,
        end - begin,
        left=begin,
        height=0.6,
        facecolor="none" if loss else colour("good"),
        edgecolor=colour("bad" if loss else "good"),
        hatch="////" if loss else None,
        linewidth=1,
    )
    axes.plot([end, end], [place - 0.3, place + 0.3], color=colour("ink"), linewidth=3)
    _write(axes, max(begin, end), place, points((end - begin) / 100))


def _write(axes: Axes, right: float, place: int, text: str) -> None:
    axes.annotate(
        text,
        (right, place),
        xytext=(5, 0),
        textcoords="offset points",
        va="center",
        color=colour("ink"),
        fontsize=FONT,
    )
