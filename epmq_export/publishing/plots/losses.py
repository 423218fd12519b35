"""The plot of what files lose against the reference, by task, beside the recipe's margin."""

from collections.abc import Mapping, Sequence

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

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
from epmq_export.publishing.report import AVERAGE, Estimate, JudgedFile, PooledLoss, Report
from epmq_export.publishing.words import DROPS, amount

_ROW = 11.0
"""The height of one file's row of one task, in units."""

Losses = Mapping[str, Mapping[str, Estimate]]
"""The losses by file and task, and their means."""


def draw_losses(report: Report, key: str) -> list[Plot]:
    """Return a plot for each of the recipe's margins: for `verify.tasks`, say."""
    margins = {
        pooled.key: pooled
        for file in report.judged
        if file.checks.tasks
        for pooled in file.checks.tasks.pooled
    }
    with drawing():
        return [_plot(report, margin, f"{key}-{i}") for i, margin in enumerate(margins.values())]


def _plot(report: Report, margin: PooledLoss, key: str) -> Plot:
    """Return the plot of the losses that one key of the recipe bounds."""
    losses = {file.row: _losses(file, margin.key) for file in report.judged}
    names = list(dict.fromkeys(name for each in losses.values() for name in each))[: MOST_TASKS + 1]
    scale = 100 if margin.measure in DROPS else 1
    band = _ROW * (len(losses) + 1)
    labels = [shortened(name) for name in names]
    axes = axes_of(band * len(names), margin_of(labels), top=legend_height(len(losses) + 1))
    near, far = _limits(losses, names, margin.margin)
    _draw_margin(axes, scale * margin.margin, scale * far)
    for place, name in enumerate(names):
        for i, (row, each) in enumerate(losses.items()):
            if name in each:
                height = place * band + _ROW * (i + 1)
                tint = place_of(row, report.rows)
                _draw(axes, each[name], scale, height, tint, "" if place else row)
        if place:
            axes.axhline(place * band, color=colour("rule"), linewidth=0.5)
    axes.set_ylim(band * len(names), 0)
    axes.set_xlim(scale * near, scale * far)
    axes.set_yticks([band * (place + 0.5) for place in range(len(names))], labels)
    drop = margin.measure in DROPS
    axes.set_xlabel("points below the reference" if drop else f"{margin.measure} from the reference")
    axes.xaxis.set_major_locator(MaxNLocator(nbins=5))
    axes.grid(axis="x", color=colour("rule"), linewidth=0.5)
    legend(axes)
    title = "Loss against the reference beside the margin"
    return Plot(svg_of(axes, key, title, _said(losses, margin)), _caption(margin))


def _said(losses: Losses, margin: PooledLoss) -> str:
    """Return what a screen reader says of the plot."""
    measure = margin.measure
    said = [
        f"{row} {amount(measure, each[AVERAGE].value)}, from {amount(measure, each[AVERAGE].low)} to "
        f"{amount(measure, each[AVERAGE].high)}"
        for row, each in losses.items()
        if AVERAGE in each
    ]
    return (
        f"Averages with intervals of 95 percent: {'; '.join(said)}. Margin: {amount(measure, margin.margin)}."
    )


def _caption(margin: PooledLoss) -> str:
    return (
        f"Loss against the reference with its interval of 95 %; the recipe's {margin.key} allows "
        f"{amount(margin.measure, margin.margin)}, the dashed line. The rule confidence goes by the "
        "one-sided bound, which is nearer to the mark than the end of the line."
    )


def _limits(losses: Losses, names: Sequence[str], margin: float) -> tuple[float, float]:
    """Return the ends of the axis, which has nothing and the margin on it."""
    found = [each[name] for each in losses.values() for name in names if name in each]
    ends = [0.0, margin, *(end for each in found for end in (each.low, each.value, each.high))]
    room = 0.05 * (max(ends) - min(ends) or 1)
    return min(ends) - room, max(ends) + room


def _draw_margin(axes: Axes, margin: float, far: float) -> None:
    """Draw the margin, and what lies beyond it."""
    axes.axvspan(margin, far, facecolor=colour("bad"), alpha=0.12)
    axes.axvline(margin, color=colour("bad"), linewidth=1.2, linestyle=(0, (4, 2)), label="margin")
    axes.axvline(0, color=colour("muted"), linewidth=0.8)


def _losses(file: JudgedFile, margin_key: str) -> dict[str, Estimate]:
    """Return the losses of a file by name, their mean first."""
    tasks = file.checks.tasks
    assert tasks is not None
    means = {pooled.key: pooled.loss for pooled in tasks.pooled}
    own = {AVERAGE: means[margin_key]} if margin_key in means else {}
    return own | {name: task.loss for name, task in tasks.by_task.items() if task.key == margin_key}


def _draw(axes: Axes, loss: Estimate, scale: float, height: float, place: int, label: str) -> None:
    tint, shape = series(place), SHAPES[place % len(SHAPES)]
    axes.plot([scale * loss.low, scale * loss.high], [height, height], color=tint, linewidth=1.4)
    axes.plot(scale * loss.value, height, shape, color=tint, markersize=6, label=shortened(label, 24) or None)
