"""A plot as SVG in a page: matplotlib draws, and the page's CSS gives colours and letters.

Colours are drawn as sentinels, which become CSS variables, so that a plot follows dark mode and print.
Nothing of a machine or a day is in a plot: the same numbers give the same bytes. User's settings of
matplotlib are left out, and pyplot, which keeps figures for the whole process, is not used.
"""

import re
import warnings
import xml.etree.ElementTree as ET
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

WIDTH = 360.0
"""The width of every plot, in its own units. A phone shows them at about a pixel each."""

FONT = 10.0
"""The size of letters, in units."""

_COLOURS = {
    "ink": "#010101",
    "muted": "#010102",
    "rule": "#010103",
    "paper": "#010104",
    "good": "#010105",
    "bad": "#010106",
    **{f"series-{i}": f"#0102{i:02x}" for i in range(8)},
}
"""The sentinel of each variable of the page's CSS. No colour is this near to black otherwise."""

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"

_LONG = re.compile(r"-?\d+\.\d{3,}(?![\de])")
"""A number with more digits than a screen shows."""

_SETTINGS: dict[Any, Any] = {
    "svg.fonttype": "none",
    "svg.hashsalt": "epmq",
    "text.parse_math": False,  # names of tasks may have dollars
    "font.size": FONT,
    "axes.linewidth": 0.8,
    "axes.unicode_minus": True,
    "path.simplify": False,
    "hatch.linewidth": 0.6,
}


@dataclass(frozen=True)
class Plot:
    """A plot for a page."""

    svg: str
    """The picture, an element of HTML that needs no escape."""

    caption: str
    """What it shows, in a sentence or two."""


def colour(name: str) -> str:
    """Return the sentinel of a variable of the page's CSS."""
    return _COLOURS[name]


def series(place: int) -> str:
    """Return the sentinel of the colour of a series. There are eight, which recur."""
    return _COLOURS[f"series-{place % 8}"]


@contextmanager
def drawing() -> Iterator[None]:
    """Draw by this module's settings alone. Letters that matplotlib's own font lacks are drawn by the
    browser, and no matter for a warning.
    """
    with warnings.catch_warnings(), matplotlib.rc_context():
        warnings.filterwarnings("ignore", "Glyph .* missing from font", UserWarning)
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_SETTINGS)
        yield


def axes_of(height: float, left: float, top: float = 8, bottom: float = 34, right: float = 12) -> Axes:
    """Return the axes of a new figure. All lengths are in units; `height` is that of the axes alone."""
    whole = height + top + bottom
    figure = Figure(figsize=(WIDTH / 72, whole / 72))
    figure.patch.set_visible(False)
    axes = figure.add_axes((left / WIDTH, bottom / whole, (WIDTH - left - right) / WIDTH, height / whole))
    plain(axes)
    return axes


def plain(axes: Axes) -> None:
    """Give axes the page's colours, without a frame."""
    axes.patch.set_visible(False)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom")
        spine.set_color(colour("rule"))
    axes.tick_params(length=0, colors=colour("muted"), labelcolor=colour("ink"))
    axes.xaxis.label.set_color(colour("muted"))
    axes.yaxis.label.set_color(colour("muted"))
    axes.set_axisbelow(True)


def margin_of(labels: Sequence[str]) -> float:
    """Return the room that labels at the left of axes take, in units."""
    return 10 + 0.6 * FONT * max((len(label) for label in labels), default=0)


def shortened(name: str, length: int = 16) -> str:
    """Return a name that fits a plot. Tables have the whole one."""
    return name if len(name) <= length else f"{name[: length - 1]}…"


def legend(axes: Axes) -> None:
    """Put the names of what some axes show above the figure, two in a line."""
    _figure(axes).legend(
        *axes.get_legend_handles_labels(),
        loc="upper center",
        ncols=2,
        frameon=False,
        fontsize=FONT,
        labelcolor=colour("ink"),
        borderpad=0,
        handletextpad=0.4,
        columnspacing=1.5,
    )


def legend_height(names: int) -> float:
    """Return the room above axes that a legend takes, in units."""
    return 10 + 14.0 * -(-names // 2)


def _figure(axes: Axes) -> Figure:
    figure = axes.get_figure(root=True)
    assert figure is not None
    return figure


def svg_of(axes: Axes, key: str, title: str, description: str) -> str:
    """Return the figure of some axes as an element for HTML. `key` is the plot's own in its page, of letters
    that need no escape; `title` and `description` are what a screen reader says.
    """
    buffer = BytesIO()
    _figure(axes).savefig(buffer, format="svg", metadata={"Date": None, "Creator": None, "Type": None})
    root = ET.fromstring(buffer.getvalue())
    for parent in [*root.iter()]:
        for child in [*parent]:
            if child.tag in (f"{{{_SVG}}}metadata", f"{{{_SVG}}}style"):
                parent.remove(child)  # The style would be the whole page's, which has its own.
    for element in root.iter():
        _rewrite(element, key)
    for name in ("width", "height", "version"):
        root.attrib.pop(name, None)
    root.set("class", "plot")
    root.set("role", "img")
    root.set("aria-labelledby", f"{key}-title {key}-desc")
    for place, (tag, text) in enumerate((("title", title), ("desc", description))):
        element = ET.Element(f"{{{_SVG}}}{tag}", {"id": f"{key}-{tag}"})
        element.text = text
        root.insert(place, element)
    ET.register_namespace("", _SVG)
    ET.register_namespace("xlink", _XLINK)
    return ET.tostring(root, encoding="unicode")


def _rewrite(element: ET.Element, key: str) -> None:
    """Give an element of matplotlib's a name that no other plot of the page has, and variables for
    sentinels.
    """
    for name, value in element.attrib.items():
        if name == "id":
            element.set(name, f"{key}-{value}")
        elif name == f"{{{_XLINK}}}href":
            element.set(name, f"#{key}-{value.removeprefix('#')}")
        elif name in ("style", "clip-path"):
            value = value.replace("url(#", f"url(#{key}-")
            for variable, sentinel in _COLOURS.items():
                value = value.replace(sentinel, f"var(--{variable})")
            element.set(name, value)
        elif name in ("d", "x", "y", "transform"):
            element.set(name, _LONG.sub(lambda number: f"{float(number[0]):.2f}", value))
