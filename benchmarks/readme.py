"""Put the averages of benchmarks/results/accuracy.json into README.md, between two comment markers.

python benchmarks/readme.py
"""

import json
from pathlib import Path
from typing import Any

from laboratory import MERGES
from rows import PEERS, RUNTIMES, Results, Row, percent, table

from epmq_export import files
from epmq_export.calibration.method import DEFAULT_METHOD, PRESETS

ROOT = Path(__file__).parents[1]
BEGIN, END = "<!-- accuracy: written by benchmarks/readme.py -->", "<!-- accuracy ends -->"


def read(folder: Path) -> Results:
    about: dict[str, Any] = json.loads((folder / "accuracy.json").read_text(encoding="utf-8"))["about"]
    return Results(folder, about, restart=False)


def block(results: Results) -> str:
    """What stands between the markers: what was measured, and averages over tasks after the first merge of the table."""
    merge = next(merge for merge in MERGES if results.score(merge, "", "merged") is not None)
    ends = [percent(next(results.of("", "", end))["scores"]["average"]) for end in ("base", "experts")]
    settings, about = results.about["settings"], results.about
    head = (
        f"{len(settings['tasks'])} text tasks, all-MiniLM-L6-v2, full fine-tuned experts, merged by {merge} (task arithmetic: TA), calibrated with "
        f"{settings['samples']} unlabelled sentences a task, the first {settings['lines']} test sentences of each (all where it has fewer); "
        "percent, averaged over tasks. "
        f"`recovered` is (row - base) / (experts - base). The base has {ends[0]}, the experts, each on its own task, {ends[1]} "
        f"({about['machine']}, {about['date']})."
    )
    lines = [["method", "bits a weight", "full precision", *(f"4 bits, {runtime}" for runtime in RUNTIMES.values()), "recovered at 4 bits"]]
    lines.append(["merged, no calibration", "32", *_cells(results, merge, "", ("merged", *RUNTIMES)), ""])
    methods = [*PRESETS]
    methods.append(methods.pop(methods.index(DEFAULT_METHOD)))
    for method in (*PEERS, *methods):
        rows = [row for stage in RUNTIMES for row in results.of(merge, method, stage)]
        if rows:
            name = method if method in PEERS else f"`{method}`" + (" (default)" if method == DEFAULT_METHOD else "")
            # A method whose target is the merge gives the merge where it does not round.
            full = "merged" if method in PRESETS and PRESETS[method].target == "merged" else "full"
            cells = [*_cells(results, merge, "" if full == "merged" else method, (full,)), *_cells(results, merge, method, (*RUNTIMES,))]
            lines.append([name, _bits(rows[0]), *cells, results.recovered(rows[0])])
    return "\n\n".join([f"{BEGIN}\n{head}", table(lines), *results.notes(), END])


def _cells(results: Results, merge: str, method: str, stages: tuple[str, ...]) -> list[str]:
    scores = [results.score(merge, method, stage) for stage in stages]
    return ["" if score is None else percent(score) for score in scores]


def _bits(row: Row) -> str:
    return f"{row.get('bits', 4.5):.2f}"  # ours are on Q4_0: in GGUF, 18 bytes for 32 weights


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
