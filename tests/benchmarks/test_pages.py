"""The tables of docs/results.md and README are what the results say."""

import json
import shutil
from pathlib import Path

import pytest

from benchmarks import RESULTS
from benchmarks.accuracy import pages
from benchmarks.accuracy.suites import SUITES, Suite
from benchmarks.tables import replaced

MARKERS = pages.MARKERS["text"]
BEGIN, END = MARKERS


@pytest.mark.parametrize("suite", SUITES.values(), ids=list(SUITES))
def test_the_page_has_the_tables_of_the_results(suite: Suite) -> None:
    text = pages.PAGE.read_text(encoding="utf-8")
    results = pages.read(RESULTS / suite.results)
    assert results.suite is suite
    block = pages.block(results)
    assert replaced(text, pages.MARKERS[suite.name], block, "") == text, (
        "run: python -m benchmarks.accuracy.pages"
    )
    assert results.markdown.read_text(encoding="utf-8") == results.text()


def test_the_readme_has_the_main_rows_of_the_page() -> None:
    text = pages.README.read_text(encoding="utf-8")
    results = pages.read(RESULTS)
    main = pages.main_rows(results)
    assert replaced(text, pages.MAIN_MARKERS, main, "") == text, "run: python -m benchmarks.accuracy.pages"
    rows = [line for line in main.splitlines() if line.startswith("|")]
    assert set(rows) < set(pages.block(results).splitlines())
    assert len(rows) == len(pages.MAIN) + 5  # besides: the head, the line under it, base, merge and experts


def test_the_command_writes_both_pages_and_each_suites_table(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    results = shutil.copytree(RESULTS, tmp_path / "results")
    for name in ("PAGE", "README"):
        monkeypatch.setattr(pages, name, Path(shutil.copy(getattr(pages, name), tmp_path)))
    monkeypatch.setattr(pages, "RESULTS", results)
    content = json.loads((results / "accuracy.json").read_text(encoding="utf-8"))
    base = next(row for row in content["rows"] if row["stage"] == "base")
    base["scores"]["average"] = 0.0123
    (results / "accuracy.json").write_text(json.dumps(content))
    pages.main([])
    for page in ("README.md", "results.md", "results/accuracy.md"):
        assert "| 1.2 |" in (tmp_path / page).read_text(encoding="utf-8"), page
    unchanged = results / "t5" / "accuracy.md"
    assert unchanged.read_bytes() == (RESULTS / "t5" / "accuracy.md").read_bytes()


def test_the_table_has_every_kind_of_row() -> None:
    results = pages.read(RESULTS)
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
    assert f'`{tuned}` has `calibration: {{"tune": true}}`.' in lines[0]
    rows = [line.removeprefix("| ") for line in lines if line.startswith("|")][2:]
    assert rows[0].startswith("base") and rows[1].startswith("merged") and rows[-1].startswith("experts")
    assert sum(line.startswith("`") for line in rows) == sum(
        next(results.of(merge, method, "packed"), None) is not None for method in pages.METHODS
    )


@pytest.mark.parametrize("text", ["none", END + BEGIN, BEGIN, 2 * (BEGIN + END)])
def test_markers_out_of_place_are_refused(text: str) -> None:
    with pytest.raises(SystemExit, match=r"page\.md: expected the markers"):
        replaced(text, MARKERS, "new", "page.md")


def test_only_the_text_between_the_markers_changes() -> None:
    assert replaced(f"a{BEGIN}old{END}b", MARKERS, "new\n", "") == f"a{BEGIN}\nnew\n\n{END}b"
