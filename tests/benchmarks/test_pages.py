"""README's table is what its results say."""

import pytest

from benchmarks.accuracy import pages
from benchmarks.accuracy.suites import SUITES, Suite

BEGIN, END = pages.MARKERS["text"]


@pytest.mark.parametrize("suite", SUITES.values(), ids=list(SUITES))
def test_the_readme_has_the_tables_of_the_results(suite: Suite) -> None:
    text = (pages.ROOT / "README.md").read_text(encoding="utf-8")
    results = pages.read(pages.ROOT / "benchmarks" / "results" / suite.results)
    assert results.suite is suite
    assert pages.replaced(text, pages.block(results), suite.name) == text, (
        "run: python -m benchmarks.accuracy.pages"
    )
    assert results.markdown.read_text(encoding="utf-8") == results.text()


def test_the_table_has_every_kind_of_row() -> None:
    results = pages.read(pages.ROOT / "benchmarks" / "results")
    merge = pages.chosen(results)
    assert all(
        sum(row["merge"] == other for row in results.rows)
        <= sum(row["merge"] == merge for row in results.rows)
        for other in pages.MERGES
    )
    base = next(results.of("", "", "base"))
    tuned = "anchored, tuned"
    results.rows = [row for row in results.rows if row["method"] not in ("llama.cpp Q4_K", tuned)]
    results.rows += [
        {
            **base,
            "merge": merge,
            "method": "llama.cpp Q4_K",
            "stage": "gguf",
            "bits": 5.166,
            "note": "some are Q5_0",
        },
        {**base, "merge": merge, "method": tuned, "stage": "packed", "grid": "Q4_0", "bits": 4.5},
        {
            **base,
            "merge": merge,
            "method": tuned,
            "stage": "packed",
            "grid": "Q2_K",
            "bits": 2.6,
            "note": "of another table",
        },
    ]
    lines = pages.block(results).splitlines()
    score = pages.percent(base["scores"]["average"])
    assert f"| llama.cpp Q4_K | 5.17 |  |  | {score} |  | 0.0 |" in lines
    assert f"| `{tuned}` | 4.50 |  | {score} |  |  | 0.0 |" in lines
    assert f"| base | 32 | {score} |  |  |  | 0.0 |" in lines
    assert "llama.cpp Q4_K: some are Q5_0." in lines and not any("of another table" in line for line in lines)
    assert f'`{tuned}` has `calibration: {{"tune": true}}`.' in lines[1]
    rows = [line.removeprefix("| ") for line in lines if line.startswith("|")][2:]
    assert rows[0].startswith("base") and rows[1].startswith("merged") and rows[-1].startswith("experts")
    assert sum(line.startswith("`") for line in rows) == sum(
        next(results.of(merge, method, "packed"), None) is not None for method in pages.METHODS
    )


@pytest.mark.parametrize("text", ["none", END + BEGIN, BEGIN, 2 * (BEGIN + END)])
def test_markers_out_of_place_are_refused(text: str) -> None:
    with pytest.raises(SystemExit, match="expected the markers"):
        pages.replaced(text, "new")


def test_only_the_text_between_the_markers_changes() -> None:
    assert pages.replaced(f"a{BEGIN}old{END}b", "new") == "anewb"
