"""The plot of the loss of each layer, before rounding and after: a panel for each kind of tensor."""

import re
from itertools import takewhile

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

from epmq_export.publishing.plots.canvas import (
    FONT,
    WIDTH,
    Plot,
    colour,
    drawing,
    legend,
    plain,
    series,
    shortened,
    svg_of,
)
from epmq_export.publishing.report import Layer
from epmq_export.publishing.stages import STAGES, median
from epmq_export.publishing.words import several, small

MOST_PANELS = 12
"""The kinds of tensors that are drawn at most, those with the largest loss; the table has all."""

_PANEL, _GAP = 92.0, 34.0


def kinds_of(layers: list[Layer]) -> dict[str, list[tuple[int, Layer]]]:
    """Return the layers by kind, each with the number of its block: the first number of its name, or its
    place where there is none. Kinds are named without what all names have in common.
    """
    found: dict[str, list[tuple[int, Layer]]] = {}
    for place, layer in enumerate(layers):
        number = re.search(r"(?<=\.)\d+(?=\.)", layer.tensor)
        kind = layer.tensor if number is None else _without(layer.tensor, number)
        found.setdefault(kind, []).append((place if number is None else int(number[0]), layer))
    names = [kind.split(".") for kind in found]
    begin, end = (_shared(names), _shared([name[::-1] for name in names])) if len(names) > 1 else (0, 0)
    return {
        ".".join(name[begin : len(name) - end]): each
        for name, each in zip(names, found.values(), strict=True)
    }


def _without(name: str, number: re.Match[str]) -> str:
    return f"{name[: number.start()]}*{name[number.end() :]}"


def _shared(names: list[list[str]]) -> int:
    """Return how many parts all names begin with. Each keeps one of its own."""
    most = min(len(name) for name in names) - 1
    same = takewhile(lambda parts: len(set(parts)) == 1, zip(*names, strict=False))
    return min(most, sum(1 for _ in same))


def draw_layers(layers: list[Layer], key: str) -> Plot | None:
    """Return the plot, or None where nothing was calibrated."""
    if not layers:
        return None
    kinds = kinds_of(layers)
    worst = sorted(kinds, key=lambda kind: -max(layer.loss_after for _, layer in kinds[kind]))[:MOST_PANELS]
    drawn = {kind: each for kind, each in kinds.items() if kind in worst}
    with drawing():
        axes = _panels(drawn)
        legend(axes[0])
        return Plot(
            svg_of(axes[0], key, "Loss by layer before and after rounding", _said(layers)), _caption(kinds)
        )


def _panels(kinds: dict[str, list[tuple[int, Layer]]]) -> list[Axes]:
    """Draw each kind in a panel of its own, two in a line, with one scale for all."""
    lines, top, bottom = -(-len(kinds) // 2), 46.0, 30.0
    height = top + lines * (_PANEL + _GAP) - _GAP + bottom
    figure = Figure(figsize=(WIDTH / 72, height / 72))
    figure.patch.set_visible(False)
    values = [getattr(layer, stage[0]) for each in kinds.values() for _, layer in each for stage in STAGES]
    made = []
    for place, (kind, each) in enumerate(kinds.items()):
        line, column = divmod(place, 2)
        below = height - top - line * (_PANEL + _GAP) - _PANEL
        axes = figure.add_axes(((46 + 162 * column) / WIDTH, below / height, 144 / WIDTH, _PANEL / height))
        plain(axes)
        _draw(axes, each)
        _scale(axes, values)
        axes.set_title(shortened(kind, 26), fontsize=FONT - 1, color=colour("ink"), pad=3)
        axes.tick_params(labelsize=FONT - 1)
        axes.grid(axis="y", color=colour("rule"), linewidth=0.5)
        if column:
            axes.tick_params(labelleft=False)
        else:
            axes.set_ylabel("loss, share", fontsize=FONT - 1)
        if place >= len(kinds) - 2:
            axes.set_xlabel("block", fontsize=FONT - 1)
        made.append(axes)
    return made


def _draw(axes: Axes, each: list[tuple[int, Layer]]) -> None:
    places = [place for place, _ in each]
    many = len(each) > 16
    for attribute, name, shape, line, tint in STAGES:
        axes.plot(
            places,
            [getattr(layer, attribute) for _, layer in each],
            marker=shape,
            markevery=max(1, len(each) // 8) if many else 1,
            markersize=6 if attribute == "loss_rounded" else 4,
            markerfacecolor="none" if attribute in ("loss_merged", "loss_rounded") else series(tint),
            linestyle=line,
            linewidth=1,
            color=series(tint),
            label=name,
        )
    axes.xaxis.set_major_locator(MaxNLocator(nbins=6, integer=True))
    if len(set(places)) == 1:
        axes.set_xticks(places[:1])


def _scale(axes: Axes, values: list[float]) -> None:
    """Give an axis the scale of all losses: of powers of ten, and near 0 even, since a loss may be 0."""
    positive = [value for value in values if value > 0]
    if not positive:
        axes.set_ylim(0, 1)
        return
    high = max(positive)
    low = max(min(positive), high / 1e9)  # what is less is nothing beside the others
    if min(values) > 0:
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if high < 100 * low else (1,)))
        axes.set_ylim(low / 1.5, high * 1.5)
    else:
        axes.set_yscale("symlog", linthresh=low)
        axes.set_ylim(0, high * 1.5)
    axes.minorticks_off()
    axes.yaxis.set_major_formatter(lambda value, _: f"{value:g}")


def _said(layers: list[Layer]) -> str:
    """Return what a screen reader says of the plot."""
    worst = max(layers, key=lambda layer: layer.loss_after)
    return (
        f"{several(len(layers), 'layer')}. Median loss as a share of the targets' energy: "
        + ", ".join(f"{name} {small(median(layers, attribute))}" for attribute, name, *_ in STAGES)
        + f". The largest as shipped is {small(worst.loss_after)}, of {worst.tensor}."
    )


def _caption(kinds: dict[str, list[tuple[int, Layer]]]) -> str:
    more = ""
    if len(kinds) > MOST_PANELS:
        more = f" The {MOST_PANELS} of {len(kinds)} kinds of tensors with the largest loss are drawn."
    return (
        "How far each layer's outputs are from the targets that calibration aims at, squared, as a share of "
        f"the targets' energy. Lower is better; the scale is of powers of ten.{more}"
    )
