"""The figures of docs/study.md, each drawn from committed tables of accuracy or rounding."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import RESULTS
from benchmarks.study import svg
from epmq_export.verification.statistics.ranks import rank_correlation

Row = dict[str, Any]
MERGE = "TSV-M"
COLOURS = {
    "merge": "#7f7f7f",
    "rtn": "#c7c7c7",
    "gptq": "#1f77b4",
    "regmean": "#9467bd",
    "epmq": "#ff7f0e",
    "featcal": "#8c564b",
    "anchored": "#2ca02c",
    "anchored, tuned": "#98df8a",
    "anchored, refined": "#d62728",
    "anchored, refined, more texts": "#e377c2",
}
"""The colour of each method, the same in every figure."""


class Suite(NamedTuple):
    """A table of accuracies."""

    name: str
    folder: str
    """Its folder in benchmarks/results."""


SUITES = (
    Suite("MiniLM,\n8 text tasks", "."),
    Suite("small CLIP,\n6 image tasks", "image"),
    Suite("DINOv2-small,\n6 image tasks", "vit"),
    Suite("SmolLM2-135M,\n6 text tasks", "language"),
    Suite("FLAN-T5-small,\n6 text tasks", "t5"),
)
COUNTS = {
    "texts": {2: "tasks-2", 4: "tasks-4", 8: "."},
    "images": {2: "image/tasks-2", 4: "image/tasks-4", 6: "image"},
}
"""The tables by the number of tasks."""


class Accuracy:
    """The rows of one accuracy.json."""

    def __init__(self, folder: str) -> None:
        content = json.loads((RESULTS / folder / "accuracy.json").read_text(encoding="utf-8"))
        self.rows: list[Row] = content["rows"]

    def row(self, merge: str, method: str, stage: str) -> Row | None:
        """Return a row of ours on Q4_0 or in full precision; None where it was not measured."""
        wanted = (merge, method, stage)
        return next(
            (
                row
                for row in self.rows
                if (row["merge"], row["method"], row["stage"]) == wanted and row.get("grid", "Q4_0") == "Q4_0"
            ),
            None,
        )

    def score(self, merge: str, method: str, stage: str) -> float | None:
        """Return a row's average over the tasks in percent; None where it was not measured."""
        row = self.row(merge, method, stage)
        return None if row is None else 100 * float(row["scores"]["average"])

    def recovered(self, score: float) -> float:
        """Return (score - base) / (experts - base) in percent."""
        base, experts = self.score("", "", "base"), self.score("", "", "experts")
        assert base is not None and experts is not None
        return 100 * (score - base) / (experts - base)

    def best_merge(self) -> str:
        """Return the merge whose full-precision row has the highest average."""
        rows = [row for row in self.rows if row["stage"] == "merged"]
        return str(max(rows, key=lambda row: float(row["scores"]["average"]))["merge"])


def kept() -> dict[str, dict[str, float]]:
    """Return what each method recovers at 4 bits, in percent, by suite; `merge` is in full precision."""
    found: dict[str, dict[str, float]] = {}
    for suite in SUITES:
        table = Accuracy(suite.folder)
        shown = found[suite.name] = {}
        for method in COLOURS:
            stage = ("", "merged") if method == "merge" else (method, "packed")
            score = table.score(MERGE, *stage)
            if score is not None and method != "anchored, tuned":
                shown[method] = table.recovered(score)
    return found


def lost() -> dict[str, dict[str, float]]:
    """Return the points of accuracy that 4 bits cost each method, by suite, where both were measured."""
    found: dict[str, dict[str, float]] = {}
    for suite in SUITES:
        table = Accuracy(suite.folder)
        shown = found[suite.name] = {}
        for method in ("rtn", "gptq", "epmq", "featcal", "anchored"):
            # What is to reproduce the merge is the merge itself where nothing is rounded.
            full = ("", "merged") if method in ("rtn", "gptq") else (method, "full")
            before, after = table.score(MERGE, *full), table.score(MERGE, method, "packed")
            if before is not None and after is not None:
                shown[method] = before - after
    return {name: shown for name, shown in found.items() if shown}


def by_count(what: str) -> dict[str, list[tuple[int, float]]]:
    """Return what each method recovers after the best merge, in percent, by the number of tasks."""
    found: dict[str, list[tuple[int, float]]] = {}
    for count, folder in COUNTS[what].items():
        table = Accuracy(folder)
        merge = table.best_merge()
        for method in ("merge", "gptq", "epmq", "anchored"):
            stage = ("", "merged") if method == "merge" else (method, "packed")
            score = table.score(merge, *stage)
            if score is not None:
                found.setdefault(method, []).append((count, table.recovered(score)))
    return found


def costs() -> dict[str, tuple[float, float]]:
    """Return seconds of calibration and average accuracy at 4 bits of each method on the text tasks."""
    table = Accuracy(".")
    rows = {method: table.row(MERGE, method, "packed") for method in COLOURS}
    return {
        method: (float(row["seconds"]), 100 * float(row["scores"]["average"]))
        for method, row in rows.items()
        if row is not None
    }


def trust() -> dict[int, list[tuple[float, float]]]:
    """Return, by the number of tasks, of each row of the study its divergence from the experts and its share
    of their accuracy in percent. Rows with copies of experts are left out.
    """
    rows = json.loads((RESULTS / "study.json").read_text(encoding="utf-8"))["rows"]
    found: dict[int, list[tuple[float, float]]] = {}
    for row in rows:
        if row["what"]["copies"] == 1:
            pair = float(row["divergence"]), 100 * float(row["accuracy"] / row["experts"])
            found.setdefault(int(row["what"]["tasks"]), []).append(pair)
    return dict(sorted(found.items()))


def _bars(panel: Any, groups: Mapping[str, Mapping[str, float]], label: str) -> None:  # noqa: ANN401
    """Draw bars of each group side by side, with their values above."""
    methods = [method for method in COLOURS if any(method in shown for shown in groups.values())]
    width = 0.86 / max(len(shown) for shown in groups.values())
    for place, shown in enumerate(groups.values()):
        for i, (method, value) in enumerate(shown.items()):
            x = place + (i - (len(shown) - 1) / 2) * width
            panel.bar(x, value, width * 0.94, color=COLOURS[method])
            text = f"{value:.1f}" if abs(value) < 20 else f"{value:.0f}"
            panel.text(x, max(value, 0), text, ha="center", va="bottom", fontsize=7)
    for method in methods:
        panel.bar(0, 0, color=COLOURS[method], label=method)
    panel.set_xticks(range(len(groups)), list(groups), fontsize=9)
    panel.set_ylabel(label)
    panel.axhline(0, color="black", linewidth=0.6)
    panel.grid(axis="y", alpha=0.3)
    panel.set_axisbelow(True)
    panel.legend(fontsize=8, ncol=len(methods), loc="lower center", bbox_to_anchor=(0.5, 1.0))


def _draw_kept(folder: Path) -> None:
    figure, panel = svg.pyplot().subplots(figsize=(12, 4))
    _bars(panel, kept(), "recovered, percent")
    panel.axhline(100, color="black", linewidth=0.6, linestyle="--")
    svg.save(figure, folder, "kept")


def _draw_lost(folder: Path) -> None:
    figure, panel = svg.pyplot().subplots(figsize=(10, 3.4))
    _bars(panel, lost(), "points lost to 4 bits")
    svg.save(figure, folder, "lost")


def _draw_counts(folder: Path) -> None:
    figure, panels = svg.pyplot().subplots(1, len(COUNTS), figsize=(10, 3.4))
    for panel, what in zip(panels, COUNTS, strict=True):
        for method, points in by_count(what).items():
            name = "best merge, full precision" if method == "merge" else f"{method}, 4 bits"
            x, y = zip(*points, strict=True)
            panel.plot(x, y, marker="o", color=COLOURS[method], label=name)
        panel.set_title(what, fontsize=10)
        panel.set_xlabel("tasks")
        panel.set_xticks(list(COUNTS[what]))
        panel.grid(alpha=0.3)
    panels[0].set_ylabel("recovered, percent")
    panels[0].legend(fontsize=8)
    svg.save(figure, folder, "counts")


def _draw_costs(folder: Path) -> None:
    figure, panel = svg.pyplot().subplots(figsize=(9, 3.6))
    for method, (seconds, score) in costs().items():
        panel.plot(seconds, score, marker="o", color=COLOURS[method])
        panel.annotate(method, (seconds, score), (6, -3), textcoords="offset points", fontsize=8)
    experts = Accuracy(".").score("", "", "experts")
    panel.axhline(experts, color="black", linewidth=0.6, linestyle="--")
    panel.set_xscale("log")
    panel.set_xlim(right=8000)
    panel.set_xlabel("seconds of calibration, one thread")
    panel.set_ylabel("accuracy at 4 bits, percent")
    panel.grid(alpha=0.3)
    svg.save(figure, folder, "costs")


def _draw_trust(folder: Path) -> None:
    figure, panel = svg.pyplot().subplots(figsize=(7, 3.6))
    for (count, pairs), marker in zip(trust().items(), "s^o", strict=True):
        x, y = zip(*pairs, strict=True)
        label = f"{count} tasks: rank correlation {rank_correlation(x, y):.2f}"
        panel.plot(x, y, linestyle="", marker=marker, alpha=0.7, label=label)
    panel.legend(fontsize=8)
    panel.set_xscale("log")
    panel.set_xlabel("divergence from the experts' outputs, held-out texts")
    panel.set_ylabel("accuracy, percent of the experts'")
    panel.grid(alpha=0.3)
    svg.save(figure, folder, "trust")


FIGURES: dict[str, Callable[[Path], None]] = {
    "kept": _draw_kept,
    "lost": _draw_lost,
    "counts": _draw_counts,
    "costs": _draw_costs,
    "trust": _draw_trust,
}
"""What draws each figure into a folder, by its file's name."""
