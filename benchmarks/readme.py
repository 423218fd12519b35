"""Put the averages of benchmarks/results/accuracy.json into README.md, between two comment markers.

python benchmarks/readme.py
"""

import json
from pathlib import Path
from typing import Any

from laboratory import MERGES, METHODS
from rows import GRID, PEERS, RUNTIMES, Results, added, bits, notes, percent, table

from epmq_export import files
from epmq_export.calibration.method import DEFAULT_METHOD, PRESETS

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- accuracy: written by benchmarks/readme.py -->", "<!-- accuracy ends -->"


def read(folder: Path) -> Results:
    about: dict[str, Any] = json.loads((folder / "accuracy.json").read_text(encoding="utf-8"))["about"]
    return Results(folder, about, restart=False)


def block(results: Results) -> str:
    """What stands between the markers: what was measured, and averages over tasks after the merge that the table has most rows of."""
    merge = chosen(results)
    settings, about = results.about["settings"], results.about
    lines = [["method", "bits a weight", "full precision", *(f"4 bits, {runtime}" for runtime in RUNTIMES.values()), "recovered"]]
    lines += [_line(results, "base", ("", "", "base")), _line(results, "merged, no calibration", (merge, "", "merged"))]
    measured = [method for method in (*METHODS, *PEERS) if any(results.score(merge, method, stage) is not None for stage in RUNTIMES)]
    for method in measured:
        name = method if method in PEERS else f"`{method}`" + (" (default)" if method == DEFAULT_METHOD else "")
        # A method whose target is the merge gives the merge where it does not round.
        same = method in METHODS and PRESETS[METHODS[method]["method"]].target == "merged"
        lines.append(_line(results, name, (merge, "", "merged") if same else (merge, method, "full"), (merge, method)))
    lines.append(_line(results, "experts, each on its own task", ("", "", "experts")))
    head = (
        f"{len(settings['tasks'])} text tasks, all-MiniLM-L6-v2, full fine-tuned experts, merged by {merge} (task arithmetic: TA), calibrated with "
        f"{settings['samples']} unlabelled sentences a task, the first {settings['lines']} test sentences of each (all where it has fewer); "
        f"percent, averaged over tasks. {''.join(map(added, measured))}"
        f"`recovered` is (row - base) / (experts - base), of the first of its 4-bit columns where a row has any ({about['machine']}, {about['date']})."
    )
    shown = [row for row in results.rows if row["merge"] == merge and row["method"] in measured and row.get("grid", GRID) == GRID]
    return "\n\n".join([f"{BEGIN}\n{head}", table(lines), *notes(shown), END])


def chosen(results: Results) -> str:
    """The merge with the most rows; the first of equals."""
    return max(MERGES, key=lambda merge: sum(row["merge"] == merge for row in results.rows))


def _line(results: Results, name: str, full: tuple[str, str, str], ours: tuple[str, str] | None = None) -> list[str]:
    """`full`: merge, method and stage of the row in full precision; `ours`: merge and method of those at 4 bits, of which there is one at least."""
    rows = [next(results.of(*full), None), *(next(results.of(*ours, stage), None) if ours else None for stage in RUNTIMES)]
    first = next(filter(None, rows[1:] if ours else rows))
    return [name, bits(first) if ours else "32", *(percent(row["scores"]["average"]) if row else "" for row in rows), results.recovered(first)]


def replaced(text: str, new: str) -> str:
    """README's text with a new block; SystemExit where its markers are not there once each, in order."""
    before, begin, rest = text.partition(BEGIN)
    _, end, after = rest.partition(END)
    if not (begin and end) or BEGIN in rest or END in before + after:
        raise SystemExit(f"README.md: expected the markers {BEGIN} and {END} once each, in this order")
    return before + new + after


def main() -> None:
    readme = ROOT / "README.md"
    text = replaced(readme.read_text(encoding="utf-8"), block(read(ROOT / "benchmarks" / "results")))
    with files.whole(readme) as built:
        built.write_text(text, encoding="utf-8")


if __name__ == "__main__":
    main()
