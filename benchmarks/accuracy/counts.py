"""How the gap grows with the number of tasks: a line for each number, from the rows of a table of so many."""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.accuracy.rows import Results
from benchmarks.tables import percent, table, write_text
from epmq_export.calibration.method import DEFAULT_METHOD

# The last one is the default, which refines biases and norms.
METHODS = ("gptq", "epmq", DEFAULT_METHOD, f"{DEFAULT_METHOD}, biases and norms")
HEAD = (
    "tasks",
    "base",
    "experts",
    "best merge",
    "",
    *METHODS,
    "recovered by the best merge",
    "recovered by the default",
)
ABOUT = (
    "Averages over the first so many tasks, in percent. Best merge: the full-precision merge of the highest "
    "average on these very test lines, which "
    "flatters it; the methods start from it and are on Q4_0, in PyTorch. Recovered: (score - base) / "
    "(experts - base). "
    "Tasks, in their order: "
)


def best_merge(results: Results, merges: Sequence[str]) -> str:
    """Return the merge whose full-precision row has the highest average; the first of equals. Every one has
    been measured.
    """
    return max(merges, key=lambda merge: results.score(merge, "", "merged") or 0.0)


def line(results: Results, merge: str) -> list[str]:
    """Return one line of the table, from measured rows."""
    ends = [next(results.of("", "", end)) for end in ("base", "experts")]
    merged = next(results.of(merge, "", "merged"))
    methods = [next(results.of(merge, method, "packed")) for method in METHODS]
    scores = [percent(row["scores"]["average"]) for row in (*ends, merged, *methods)]
    count = str(len(results.about["settings"]["tasks"]))
    return [count, *scores[:2], merge, *scores[2:], results.recovered(merged), results.recovered(methods[-1])]


def write(folder: Path, longest: Results, lines: Sequence[Sequence[str]]) -> None:
    """Write counts.md, as far as it has come; `longest` has the most tasks so far."""
    text = (
        f"# Accuracy by the number of tasks\n\n{ABOUT}{', '.join(longest.about['settings']['tasks'])}.\n\n"
        f"{longest.head()}\n\n{table([HEAD, *lines])}\n"
    )
    write_text(folder / "counts.md", text)
