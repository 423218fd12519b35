"""Draw docs/plots/*.svg from the committed results: the study's curves, and the figures of docs/study.md.

    python -m benchmarks.study.plots

The same results give the same bytes again.
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import ROOT
from benchmarks.commands import parser
from benchmarks.study import figures, svg
from benchmarks.study.__main__ import STUDY
from benchmarks.study.axes import USUAL

PLOTS = ROOT / "docs" / "plots"
Row = dict[str, Any]
Curve = list[tuple[float, Row]]
"""Rows by the value of the number that they differ in."""

MEASURES: dict[str, Callable[[Row], float]] = {
    "accuracy, share of the experts' own": lambda row: float(row["accuracy"] / row["experts"]),
    "divergence from the experts' outputs": lambda row: float(row["divergence"]),
    "gain: share of the experts' change of the output": lambda row: float(row["gain"]),
}


class Plot(NamedTuple):
    name: str
    label: str
    """What the number is called."""

    curves: Sequence[tuple[str, Curve]]
    log: bool = True


def along(rows: Sequence[Row], key: str, **fixed: Any) -> Curve:  # noqa: ANN401
    """Return value of one number and row, by rising value, where everything else is `fixed` or as usual."""
    wanted = {**USUAL, **fixed}
    found = [
        row
        for row in rows
        if all(row["what"][name] == value for name, value in wanted.items() if name != key)
    ]
    return sorted(((float(row["what"][key]), row) for row in found), key=lambda pair: pair[0])


def plots(rows: Sequence[Row]) -> list[Plot]:
    """Return what is drawn of the study's rows."""
    lengths = [(f"{count} tasks", along(rows, "length", tasks=count)) for count in (2, 4, 8)]
    lengths.append(("8 tasks, task arithmetic", along(rows, "length", rule="task_arithmetic")))
    return [
        Plot("length", "length of the anchor / that of rho: auto", lengths),
        Plot("alpha", "alpha", [("8 tasks", along(rows, "alpha"))], log=False),
        Plot("lambda", "lambda", [("8 tasks", along(rows, "lambda"))]),
        Plot("samples", "texts a task", [("8 tasks", along(rows, "samples"))]),
    ]


def draw(plot: Plot, folder: Path) -> None:
    """Draw every measure side by side, as NAME.svg."""
    figure, panels = svg.pyplot().subplots(1, len(MEASURES), figsize=(13, 3.2))
    for panel, (title, measure) in zip(panels, MEASURES.items(), strict=True):
        for legend, points in plot.curves:
            panel.plot([x for x, _ in points], [measure(row) for _, row in points], marker="o", label=legend)
        panel.set_title(title, fontsize=10)
        panel.set_xlabel(plot.label)
        panel.grid(alpha=0.3)
        if plot.log:
            panel.set_xscale("log", base=2)
    panels[0].legend(fontsize=8)
    svg.save(figure, folder, plot.name)


def main(arguments: Sequence[str] | None = None) -> None:
    options = parser("study.plots", __doc__)
    options.add_argument("--study", type=Path, default=STUDY, help="the JSON file of the study's rows")
    options.add_argument("--out", type=Path, default=PLOTS, help="the folder of the plots")
    given = options.parse_args(arguments)
    for plot in plots(json.loads(given.study.read_text(encoding="utf-8"))["rows"]):
        draw(plot, given.out)
    for figure in figures.FIGURES.values():
        figure(given.out)


if __name__ == "__main__":
    main()
