"""Put the averages of each suite's accuracy.json (benchmarks/results) into README.md, between two comment
markers.

python -m benchmarks.accuracy.pages
"""

import json
from pathlib import Path
from typing import Any

from benchmarks import RESULTS, ROOT
from benchmarks.accuracy.laboratory import MERGES, METHODS
from benchmarks.accuracy.rows import GRID, PEERS, Results, added, bits, notes
from benchmarks.accuracy.suites import SUITES
from benchmarks.tables import percent, table
from epmq_export import files
from epmq_export.calibration.method import DEFAULT_METHOD, PRESETS

# By suite.
MARKERS = {
    "text": ("<!-- accuracy: written by benchmarks.accuracy.pages -->", "<!-- accuracy ends -->"),
    "vit": (
        "<!-- accuracy of DINOv2: written by benchmarks.accuracy.pages -->",
        "<!-- accuracy of DINOv2 ends -->",
    ),
    "language": (
        "<!-- accuracy of a language model: written by benchmarks.accuracy.pages -->",
        "<!-- accuracy of a language model ends -->",
    ),
    "t5": ("<!-- accuracy of T5: written by benchmarks.accuracy.pages -->", "<!-- accuracy of T5 ends -->"),
    "image": (
        "<!-- accuracy on images: written by benchmarks.accuracy.pages -->",
        "<!-- accuracy on images ends -->",
    ),
}


def read(folder: Path) -> Results:
    about: dict[str, Any] = json.loads((folder / "accuracy.json").read_text(encoding="utf-8"))["about"]
    return Results(folder, about, restart=False)


def block(results: Results) -> str:
    """What stands between the markers: what was measured, and averages over tasks after the merge that the
    table has most rows of.
    """
    merge = chosen(results)
    settings, about = results.about["settings"], results.about
    lines = [
        [
            "method",
            "bits a weight",
            "full precision",
            *(f"4 bits, {runtime}" for runtime in results.suite.runtimes.values()),
            "recovered",
        ]
    ]
    lines += [
        _line(results, "base", ("", "", "base")),
        _line(results, "merged, no calibration", (merge, "", "merged")),
    ]
    measured = [
        method
        for method in (*METHODS, *PEERS)
        if any(results.score(merge, method, stage) is not None for stage in results.suite.runtimes)
    ]
    for method in measured:
        name = (
            method if method in PEERS else f"`{method}`" + (" (default)" if method == DEFAULT_METHOD else "")
        )
        # A method whose target is the merge gives the merge where it does not round.
        same = method in METHODS and PRESETS[METHODS[method]["method"]].target == "merged"
        lines.append(
            _line(results, name, (merge, "", "merged") if same else (merge, method, "full"), (merge, method))
        )
    lines.append(_line(results, "experts, each on its own task", ("", "", "experts")))
    head = (
        f"{len(settings['tasks'])} {results.suite.subject}, merged by {merge} (task arithmetic: TA), "
        "calibrated with "
        f"{settings['samples']} unlabelled {results.suite.unit} a task, the first {settings['lines']} test "
        f"{results.suite.unit} of each (all where it has fewer); "
        f"percent, averaged over tasks. {''.join(map(added, measured))}"
        "`recovered` is (row - base) / (experts - base), of the first of its 4-bit columns where a row has "
        f"any ({about['machine']}, {about['date']})."
    )
    shown = [
        row
        for row in results.rows
        if row["merge"] == merge and row["method"] in measured and row.get("grid", GRID) == GRID
    ]
    begin, end = MARKERS[results.suite.name]
    return "\n\n".join([f"{begin}\n{head}", table(lines), *notes(shown), end])


def chosen(results: Results) -> str:
    """The merge with the most rows; the first of equals."""
    return max(MERGES, key=lambda merge: sum(row["merge"] == merge for row in results.rows))


def _line(
    results: Results, name: str, full: tuple[str, str, str], ours: tuple[str, str] | None = None
) -> list[str]:
    """`full`: merge, method and stage of the row in full precision; `ours`: merge and method of those at 4
    bits, of which there is one at least.
    """
    rows = [
        next(results.of(*full), None),
        *(next(results.of(*ours, stage), None) if ours else None for stage in results.suite.runtimes),
    ]
    first = next(filter(None, rows[1:] if ours else rows))
    return [
        name,
        bits(first) if ours else "32",
        *(percent(row["scores"]["average"]) if row else "" for row in rows),
        results.recovered(first),
    ]


def replaced(text: str, new: str, suite: str = "text") -> str:
    """README's text with a new block; SystemExit where its markers are not there once each, in order."""
    first, last = MARKERS[suite]
    before, begin, rest = text.partition(first)
    _, end, after = rest.partition(last)
    if not (begin and end) or first in rest or last in before + after:
        raise SystemExit(f"README.md: expected the markers {first} and {last} once each, in this order")
    return before + new + after


def main() -> None:
    readme = ROOT / "README.md"
    text = readme.read_text(encoding="utf-8")
    for suite in SUITES.values():
        text = replaced(text, block(read(RESULTS / suite.results)), suite.name)
    with files.whole(readme) as built:
        built.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
