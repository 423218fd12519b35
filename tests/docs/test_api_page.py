"""docs/api.md is what the docstrings say."""

import re
from functools import cache

from epmq_export import __all__
from tests.docs import api_page
from tests.docs.api_page import FUNCTIONS, PAGE, PARTS, RESULTS

page = cache(api_page.page)
LIBRARY = {"Any", "Exception", "Literal", "Mapping", "None", "Path", "Sequence", "Tensor"}
SAID_IN_WORDS = {"Grid", "Outcome", "PackedTensor", "RecipeModel", "Scores"}


def test_the_page_is_what_the_docstrings_say() -> None:
    assert PAGE.read_text(encoding="utf-8") == page(), "run `python -m tests.docs.api_page`"


def test_the_page_has_every_public_name() -> None:
    text = page()
    for name in set(__all__) - {"__version__"}:
        assert f"### {name}\n" in text or f"| `{name}` |" in text, name
    assert {*FUNCTIONS, *RESULTS} <= set(__all__)


def test_the_page_tells_of_every_attribute_and_of_every_class_that_one_has() -> None:
    rows = [re.split(r"(?<!\\)\|", line) for line in page().splitlines() if line.startswith("| `")]
    assert [row for row in rows if not row[-2].strip()] == []
    named = {name for row in rows for name in re.findall(r"\b[A-Z]\w+\b", row[2])}
    assert named - LIBRARY - SAID_IN_WORDS <= {*RESULTS, *PARTS, *__all__}
