"""README's table is what its results say."""

import pytest
import readme


def test_the_readme_has_the_table_of_the_results() -> None:
    text = (readme.ROOT / "README.md").read_text(encoding="utf-8")
    results = readme.read(readme.ROOT / "benchmarks" / "results")
    assert readme.replaced(text, readme.block(results)) == text, "run: python benchmarks/readme.py"
    assert results.markdown.read_text(encoding="utf-8") == results.text()


def test_the_table_has_every_kind_of_row() -> None:
    results = readme.read(readme.ROOT / "benchmarks" / "results")
    merge = next(merge for merge in readme.MERGES if results.score(merge, "", "merged") is not None)
    results.rows += [{**next(results.of("", "", "base")), "merge": merge, "method": "llama.cpp Q4_K", "stage": "gguf", "bits": 5.166, "note": "some are Q5_0"}]
    lines = readme.block(results).splitlines()
    base = readme.percent(next(results.of("", "", "base"))["scores"]["average"])
    assert f"| llama.cpp Q4_K | 5.17 |  |  | {base} |  | 0.0 |" in lines
    assert "llama.cpp Q4_K: some are Q5_0." in lines
    assert sum(line.startswith("| `") for line in lines) == len(readme.PRESETS)


@pytest.mark.parametrize("text", ["none", readme.END + readme.BEGIN, readme.BEGIN, 2 * (readme.BEGIN + readme.END)])
def test_markers_out_of_place_are_refused(text: str) -> None:
    with pytest.raises(SystemExit, match="expected the markers"):
        readme.replaced(text, "new")


def test_only_the_text_between_the_markers_changes() -> None:
    assert readme.replaced(f"a{readme.BEGIN}old{readme.END}b", "new") == "anewb"
