"""The benchmark of the whole chain: its page."""

import json

from benchmarks import PAGE, RESULTS
from benchmarks.speed.chain import MARKERS, page
from benchmarks.tables import replaced


def test_the_pages_have_the_tables_of_the_results() -> None:
    told = page(json.loads((RESULTS / "chain.json").read_text(encoding="utf-8")))
    assert (RESULTS / "chain.md").read_text(encoding="utf-8") == f"# The whole chain\n\n{told}"
    text = PAGE.read_text(encoding="utf-8")
    assert replaced(text, MARKERS, told, "") == text, "run: python -m benchmarks.speed.chain"
