"""Put the averages of every suite's accuracy.json (benchmarks/results) into docs/results.md, and the main
rows of the text tasks into README.md, between comment markers. Each accuracy.md is written anew, too.

    python -m benchmarks.accuracy.pages
"""

import json
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks import PAGE, RESULTS, ROOT
from benchmarks.accuracy.laboratory import MERGES, METHODS
from benchmarks.accuracy.rows import GRID, PEERS, Results, added, bits, notes
from benchmarks.accuracy.suites import SUITES, TEXT
from benchmarks.commands import parser
from benchmarks.tables import Markers, percent, put, table
from epmq_export.calibration.method import DEFAULT_METHOD, PRESETS

README = ROOT / "README.md"
WIDTH = 110
"""The longest line of README."""

# The methods and peers that README.md shows.
MAIN = (
    "gptq",
    "epmq",
    DEFAULT_METHOD,
    f"{DEFAULT_METHOD}, refined, more texts",
    "llama.cpp Q4_0, imatrix",
    "llama.cpp Q4_K, imatrix",
    "ONNX Runtime HQQ",
    "llm-compressor GPTQ",
)


# What is said of the default method, whose biases and norms are not refined in these tables.
DEFAULT = "default without `refine`"
COMMAND = "benchmarks.accuracy.pages"
MARKERS = {
    "text": Markers.of("accuracy", COMMAND),
    "classifiers": Markers.of("accuracy of classifiers", COMMAND),
    "e5": Markers.of("accuracy of E5", COMMAND),
    "vit": Markers.of("accuracy of DINOv2", COMMAND),
    "language": Markers.of("accuracy of a language model", COMMAND),
    "t5": Markers.of("accuracy of T5", COMMAND),
    "image": Markers.of("accuracy on images", COMMAND),
}
"""The markers in PAGE, by suite."""

MAIN_MARKERS = Markers.of("accuracy in short", COMMAND)
"""The markers in README."""


def read(folder: Path) -> Results:
    """Return the rows of a folder's accuracy.json."""
    about: dict[str, Any] = json.loads((folder / "accuracy.json").read_text(encoding="utf-8"))["about"]
    return Results(folder, about, restart=False)


def block(results: Results) -> str:
    """Return what stands between a suite's markers: what was measured, and averages over tasks after the
    merge that the table has most rows of.
    """
    merge, measured, settings = chosen(results), shown(results), results.about["settings"]
    head = (
        f"{len(settings['tasks'])} {results.suite.subject}, merged by {merge} (task arithmetic: TA), "
        f"calibrated with {settings['samples']} unlabelled {results.suite.unit} a task, the first "
        f"{settings['lines']} test {results.suite.unit} of each (all where it has fewer); "
        f"percent, averaged over tasks. {''.join(map(added, measured))}{recovered(results)}"
    )
    told = [
        row
        for row in results.rows
        if row["merge"] == merge and row["method"] in measured and row.get("grid", GRID) == GRID
    ]
    return "\n\n".join([head, averages(results, measured), *notes(told)])


def main_rows(results: Results) -> str:
    """Return what stands between README's markers."""
    settings, methods = results.about["settings"], [name for name in shown(results) if name in MAIN]
    head = (
        f"{len(settings['tasks'])} {results.suite.subject}, merged by {chosen(results)}, calibrated with "
        f"{settings['samples']} unlabelled {results.suite.unit} a task; percent, averaged over tasks. "
        f"{''.join(map(added, methods))}{recovered(results)}"
    )
    head = textwrap.fill(head, WIDTH, break_long_words=False, break_on_hyphens=False)
    return f"{head}\n\n{averages(results, methods)}"


def recovered(results: Results) -> str:
    """Return the sentence that explains the last column."""
    return (
        "`recovered` is (row - base) / (experts - base), of the first of its 4-bit columns where a row has "
        f"any ({results.about['machine']}, {results.about['date']})."
    )


def chosen(results: Results) -> str:
    """Return the merge with the most rows; the first of equals."""
    return max(MERGES, key=lambda merge: sum(row["merge"] == merge for row in results.rows))


def shown(results: Results) -> list[str]:
    """Return the methods and peers that have a row at 4 bits after that merge."""
    merge = chosen(results)
    return [
        method
        for method in (*METHODS, *PEERS)
        if any(results.score(merge, method, stage) is not None for stage in results.suite.runtimes)
    ]


def averages(results: Results, methods: Sequence[str]) -> str:
    """Return a table: the base, the merge, a line for each method or peer, and the experts."""
    merge = chosen(results)
    runtimes = [f"4 bits, {runtime}" for runtime in results.suite.runtimes.values()]
    lines = [
        ["method", "bits a weight", "full precision", *runtimes, "recovered"],
        _line(results, "base", ("", "", "base")),
        _line(results, "merged, no calibration", (merge, "", "merged")),
    ]
    for method in methods:
        default = f" ({DEFAULT})" if method == DEFAULT_METHOD else ""
        name = method if method in PEERS else f"`{method}`{default}"
        # A method whose target is the merge gives the merge where it does not round.
        same = method in METHODS and PRESETS[METHODS[method]["method"]].target == "merged"
        full = (merge, "", "merged") if same else (merge, method, "full")
        lines.append(_line(results, name, full, (merge, method)))
    lines.append(_line(results, "experts, each on its own task", ("", "", "experts")))
    return table(lines)


def _line(
    results: Results, name: str, full: tuple[str, str, str], ours: tuple[str, str] | None = None
) -> list[str]:
    """Return one line. `full` is merge, method and stage of the row in full precision; `ours` merge and
    method of those at 4 bits, of which there is one at least.
    """
    rows = [
        next(results.of(*full), None),
        *(next(results.of(*ours, stage), None) if ours else None for stage in results.suite.runtimes),
    ]
    first = next(filter(None, rows[1:] if ours else rows))
    scores = [percent(row["scores"]["average"]) if row else "" for row in rows]
    return [name, bits(first) if ours else "32", *scores, results.recovered(first)]


def main(arguments: Sequence[str] | None = None) -> None:
    parser("accuracy.pages", __doc__).parse_args(arguments)
    for suite in SUITES.values():
        results = read(RESULTS / suite.results)
        results.save()
        put(PAGE, MARKERS[suite.name], block(results))
        if suite is TEXT:
            put(README, MAIN_MARKERS, main_rows(results))


if __name__ == "__main__":
    main()
