"""Draw docs/plots/*.svg from benchmarks/results/study.json.

pip install matplotlib python -m benchmarks.study.plots
"""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import matplotlib

from benchmarks.study.__main__ import PLOTS, STUDY, USUAL

matplotlib.use("svg")
# The same file again from the same results.
matplotlib.rcParams["svg.hashsalt"] = "epmq"
matplotlib.rcParams["svg.fonttype"] = "none"

from matplotlib import pyplot  # noqa: E402  (after the choice of how to draw)

Rows = Sequence[dict[str, Any]]


def along(rows: Rows, key: str, **fixed: Any) -> list[tuple[float, dict[str, Any]]]:  # noqa: ANN401
    """Value of one number and row, by rising value, where everything else is `fixed` or as usual."""
    wanted = {**USUAL, **fixed}
    found = [
        row
        for row in rows
        if all(row["what"][name] == value for name, value in wanted.items() if name != key)
    ]
    return sorted(((float(row["what"][key]), row) for row in found), key=lambda pair: pair[0])


def draw(
    name: str, label: str, curves: Sequence[tuple[str, list[tuple[float, dict[str, Any]]]]], log: bool
) -> None:
    """Accuracy as a share of the experts', divergence, and gain, side by side."""
    measures: dict[str, Callable[[dict[str, Any]], float]] = {
        "accuracy, share of the experts' own": lambda row: row["accuracy"] / row["experts"],
        "divergence from the experts' outputs": lambda row: float(row["divergence"]),
        "gain: share of the experts' change of the output": lambda row: float(row["gain"]),
    }
    figure, panels = pyplot.subplots(1, len(measures), figsize=(13, 3.2))
    for panel, (title, measure) in zip(panels, measures.items(), strict=True):
        for legend, points in curves:
            panel.plot([x for x, _ in points], [measure(row) for _, row in points], marker="o", label=legend)
        panel.set_title(title, fontsize=10)
        panel.set_xlabel(label)
        panel.grid(alpha=0.3)
        if log:
            panel.set_xscale("log", base=2)
    panels[0].legend(fontsize=8)
    figure.tight_layout()
    PLOTS.mkdir(parents=True, exist_ok=True)
    figure.savefig(PLOTS / f"{name}.svg", metadata={"Date": None})
    pyplot.close(figure)


def main() -> None:
    rows: Rows = json.loads(Path(STUDY).read_text(encoding="utf-8"))["rows"]
    lengths = [(f"{count} tasks", along(rows, "length", tasks=count)) for count in (2, 4, 8)]
    lengths.append(("8 tasks, task arithmetic", along(rows, "length", rule="task_arithmetic")))
    draw("length", "length of the anchor / that of rho: auto", lengths, log=True)
    draw("alpha", "alpha", [("8 tasks", along(rows, "alpha"))], log=False)
    draw("lambda", "lambda", [("8 tasks", along(rows, "lambda"))], log=True)
    draw("samples", "texts a task", [("8 tasks", along(rows, "samples"))], log=True)


if __name__ == "__main__":
    main()
