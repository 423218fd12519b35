"""The rows of the table of accuracies, as JSON and as Markdown."""

import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from filelock import FileLock

from benchmarks.accuracy.laboratory import MERGES, METHODS
from benchmarks.accuracy.suites import SUITES, Suite
from benchmarks.machine import today
from benchmarks.peers import known
from benchmarks.tables import percent, table, write_json, write_text
from epmq_export.calibration.method import DEFAULT_METHOD, PRESETS
from epmq_export.grids import GRIDS
from epmq_export.verification.tasks.bench import Scores

Row = dict[str, Any]
GRID = "Q4_0"  # of every row of ours that names no other
PEERS = known()
STAGES = ("full", "packed", "gguf", "onnx")
BITS = "Bits a weight: of the linears in GGUF, scales included."
RECOVERED = (
    "Recovered: (row - base) / (experts - base). Seconds: of calibration (without the merge) or of the "
    "peer, by the clock."
)


def numbers(method: str) -> dict[str, Any] | None:
    """Return what decides a method's or a peer's result: a row of other numbers is not its row."""
    if method in PEERS:
        return dict(PEERS[method].settings)
    if not method:
        return None
    asked = dict(METHODS[method])
    return asdict(PRESETS[asked.pop("method")]) | asked


class Results:
    """The rows so far, on disk after each. Runs side by side may add rows to one folder."""

    def __init__(self, folder: Path, about: dict[str, Any], restart: bool) -> None:
        """Read a folder's rows, without those of a method that has other numbers by now, or is no more.

        SystemExit where they are of other experts, data, settings, versions or machines.
        """
        self.json, self.markdown = folder / "accuracy.json", folder / "accuracy.md"
        self.about: dict[str, Any] = about
        self.rows: list[Row] = []
        if self.json.exists() and not restart:
            found = json.loads(self.json.read_text(encoding="utf-8"))
            for key in ("settings", "inputs", "versions", "machine"):
                if {"suite": "text", **_plain(found["about"][key])} != {
                    "suite": "text",
                    **_plain(about[key]),
                }:
                    raise SystemExit(
                        f"{self.json}: its {key} are not those of this run: give another --out, or "
                        "--restart to replace it"
                    )
            self.about = found["about"]
            self.rows = _current(found["rows"])
        self._shared = not restart

    def find(self, merge: str, method: str, stage: str, grid: str = GRID) -> Row | None:
        """Return the row of that name if it was measured with the method's own numbers, else None."""
        return next(
            (row for row in self.of(merge, method, stage, grid) if row["numbers"] == numbers(method)), None
        )

    def of(self, merge: str, method: str, stage: str, grid: str = GRID) -> Iterator[Row]:
        """Yield the row of that name, whatever its numbers."""
        return (row for row in self.rows if _name(row) == (merge, method, grid, stage))

    def score(self, merge: str, method: str, stage: str) -> float | None:
        """Return the average over tasks, 0..1; None where there is no such row."""
        return next((float(row["scores"]["average"]) for row in self.of(merge, method, stage)), None)

    def add(self, merge: str, method: str, stage: str, scores: Scores, facts: dict[str, Any]) -> None:
        """Add or replace a row, save all, and print it; `facts` are what else it tells, such as `seconds`,
        the `grid` of ours, `bits` a weight, a `note`.
        """
        new = {
            "merge": merge,
            "method": method,
            "stage": stage,
            "numbers": numbers(method),
            "scores": scores,
            **facts,
        }
        self.about["date"] = today()
        self.json.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(self.json.with_suffix(".lock")):
            there = self._saved()
            self.rows = _sorted({_name(row): row for row in (*there, *self.rows, new)}.values())
            self.save()
        told = " ".join(
            f"{key} {value:g}" if isinstance(value, float) else f"{key} {value}"
            for key, value in facts.items()
            if value is not None
        )
        print(f"{merge:9}{method:30}{stage:8}{100 * scores['average']:6.1f}  {told}", flush=True)

    def _saved(self) -> list[Row]:
        """Return the rows that are in the folder by now, another run's too. What is to be replaced is not
        read.
        """
        if not self._shared or not self.json.exists():
            self._shared = True
            return []
        return _current(json.loads(self.json.read_text(encoding="utf-8"))["rows"])

    def save(self) -> None:
        """Write the rows as they are: accuracy.json and accuracy.md."""
        write_json(self.json, {"about": self.about, "rows": self.rows})
        write_text(self.markdown, self.text())

    @property
    def suite(self) -> Suite:
        """Return what kind of tasks the rows are of."""
        return SUITES[self.about["settings"].get("suite", "text")]

    def head(self) -> str:
        """Return what was measured, on what, when."""
        about, settings = self.about, self.about["settings"]
        return (
            f"{len(settings['tasks'])} {self.suite.subject}, {settings['samples']} unlabelled calibration "
            f"{self.suite.unit} a task, "
            f"the first {settings['lines']} test {self.suite.unit} a task; percent. {about['date']}, "
            f"{about['machine']}; "
            f"{', '.join(f'{name} {version}' for name, version in about['versions'].items())}. Written by "
            "`python -m benchmarks.accuracy`."
        )

    def text(self) -> str:
        """Return the tables in Markdown: averages, other grids where there are any, all rows by task."""
        tasks = self.about["settings"]["tasks"]
        merges = [merge for merge in MERGES if any(row["merge"] == merge for row in self.rows)]
        averages = [["", "precision", *merges]]
        for method, stages in [("", ["merged"]), *((method, [*STAGES]) for method in (*METHODS, *PEERS))]:
            for stage in stages:
                rows = [next(self.of(merge, method, stage), None) for merge in merges]
                if any(rows):
                    cells = [percent(row["scores"]["average"]) if row else "" for row in rows]
                    averages.append(
                        [method or "merged", self.precision(next(row for row in rows if row)), *cells]
                    )
        each = [["merge", "method", "precision", *tasks, "average", "recovered", "seconds"]]
        for row in self.rows:
            scores = [percent(row["scores"][task]) for task in (*tasks, "average")]
            each.append(
                [
                    row["merge"],
                    row["method"] or row["stage"],
                    self.precision(row),
                    *scores,
                    self.recovered(row),
                    f"{row.get('seconds', '')}",
                ]
            )
        variants = "".join(
            added(method) for method in METHODS if any(row["method"] == method for row in self.rows)
        ).strip()
        parts = [
            "# Accuracy",
            self.head(),
            "## Averages",
            table(averages),
            *filter(None, [variants]),
            *notes(self.rows),
            *self.grids(merges),
            "## By task",
            RECOVERED,
            table(each),
        ]
        return "\n\n".join(parts) + "\n"

    def grids(self, merges: Sequence[str]) -> list[str]:
        """Return the default method's averages by grid, after each of the merges that has more than the usual
        one, with a cell for each runtime that reads the grid; nothing where no merge has.
        """
        lines = [["merge", "grid", "bits a weight", *self.suite.runtimes.values()]]
        for merge in merges:
            found = {
                grid: [
                    next(self.of(merge, DEFAULT_METHOD, stage, grid), None) for stage in self.suite.runtimes
                ]
                for grid in GRIDS
            }
            if any(row for grid, rows in found.items() for row in rows if grid != GRID):
                for grid, rows in found.items():
                    if first := next(filter(None, rows), None):
                        lines.append(
                            [
                                merge,
                                grid,
                                bits(first),
                                *(percent(row["scores"]["average"]) if row else "" for row in rows),
                            ]
                        )
        return ["## Grids", f"Averages of `{DEFAULT_METHOD}`. {BITS}", table(lines)] if len(lines) > 1 else []

    def precision(self, row: Row) -> str:
        """Return a row's grid or, of a peer, its bits a weight, scales included, and the runtime."""
        if row["stage"] not in self.suite.runtimes:
            return "full"
        runtime = self.suite.runtimes[row["stage"]]
        return (
            f"{row['grid'] if 'grid' in row else f'{bits(row)} bits' if 'bits' in row else GRID}, {runtime}"
        )

    def recovered(self, row: Row) -> str:
        """Return a row's share of the way from base to experts, in percent; empty where an end is missing."""
        base, experts = self.score("", "", "base"), self.score("", "", "experts")
        if base is None or experts is None or base == experts:
            return ""
        return percent((row["scores"]["average"] - base) / (experts - base))


def _plain(about: object) -> dict[str, Any]:
    return dict(about) if isinstance(about, dict) else {"": about}


def _name(row: Row) -> tuple[str, str, str, str]:
    return row["merge"], row["method"], row.get("grid", GRID), row["stage"]


def added(method: str) -> str:
    """Return in a sentence what a method's recipe says beside the name of a preset; nothing for presets and
    peers.
    """
    more = {key: value for key, value in METHODS.get(method, {}).items() if key != "method"}
    return f"`{method}` has `calibration: {json.dumps(more)}`. " if more else ""


def notes(rows: Sequence[Row]) -> list[str]:
    """Return what was not done as asked, or must be known of a row; each sentence once."""
    return list(dict.fromkeys(f"{row['method']}: {row['note']}." for row in rows if row.get("note")))


def bits(row: Row) -> str:
    """Return the bits that a weight of the linears takes, scales included; a row of ours that tells no number
    is all on its grid.
    """
    return f"{row['bits'] if 'bits' in row else GRIDS[row.get('grid', GRID)].bits_per_weight:.2f}"


def _current(rows: Iterable[Row]) -> list[Row]:
    """Return the rows whose methods are known by the numbers that they were measured with."""
    return [
        row
        for row in rows
        if row["method"] in ("", *METHODS, *PEERS) and row["numbers"] == numbers(row["method"])
    ]


def _sorted(rows: Iterable[Row]) -> list[Row]:
    """Return rows in the order of the table."""
    known = ("", *MERGES, *METHODS, *PEERS, GRID, *GRIDS, "base", "experts", "merged", *STAGES)
    order = {name: i for i, name in enumerate(dict.fromkeys(known))}
    return sorted(rows, key=lambda row: tuple(order[part] for part in _name(row)))
