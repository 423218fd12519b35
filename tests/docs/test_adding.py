"""docs/adding.md lists every place that names a grid, a rule, a family, a format or a runtime."""

import ast
import re
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests import ROOT

PAGE = ROOT / "docs" / "adding.md"
CODE = [
    ROOT / "cli.py",
    *(path for name in ("epmq_export", "converters", "formats") for path in (ROOT / name).rglob("*.py")),
]
# What stands in the page for its kind, and the folder whose modules others import to have it.
EXAMPLES = {
    "Q5_K": None,
    "slerp": None,
    "vit": "converters.vit",
    "granite": None,
    "onnx": "formats.onnx",
    "onnxruntime": "epmq_export.verification.runtimes.onnxruntime",
}


def _listed(name: str) -> list[str]:
    """Return the places of the table that comes after the first mention of an example."""
    text = PAGE.read_text(encoding="utf-8")
    table = re.split(rf"`{name}`(?: stands in these places)?:\n\n", text)[1].partition("\n\n")[0]
    return re.findall(r"^\| `([^`]+)` \|", table, re.M)


def _names(path: Path, name: str, folder: str | None) -> bool:
    """Tell whether a file has a name as a text of its own, or imports a module of its folder."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and node.value == name:
            return True
        modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        modules += [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
        if folder is not None and any(f"{module}.".startswith(f"{folder}.") for module in modules):
            return True
    return False


def _covers(place: str, path: str) -> bool:
    return path.startswith(place) if place.endswith("/") else fnmatchcase(path, place)


@pytest.mark.parametrize("name", EXAMPLES)
def test_the_code_names_an_example_in_the_listed_places_and_in_no_other(name: str) -> None:
    places = _listed(name)
    found = [str(path.relative_to(ROOT)) for path in CODE if _names(path, name, EXAMPLES[name])]
    assert [path for path in found if not any(_covers(place, path) for place in places)] == []
    code = [place for place in places if not place.startswith(("docs/", "tests/", "benchmarks/"))]
    assert [place for place in code if not any(_covers(place, path) for path in found)] == []


@pytest.mark.parametrize("name", EXAMPLES)
def test_pages_and_tests_name_an_example_where_it_is_listed(name: str) -> None:
    places = [place for place in _listed(name) if place.startswith(("docs/", "tests/", "benchmarks/"))]
    assert any(place.startswith("docs/") for place in places) and any(
        place.startswith("tests/") for place in places
    )
    word = re.compile(rf"(?<!\w){name}(?!\w)", re.IGNORECASE)
    assert [place for place in places if not word.search((ROOT / place).read_text(encoding="utf-8"))] == []


def test_every_path_of_the_page_is_there() -> None:
    named = re.findall(r"`([\w./*]+(?:\.py|\.md|\.toml|/))`", PAGE.read_text(encoding="utf-8"))
    rules, runtimes = "epmq_export/merging", "epmq_export/verification/runtimes"
    beside = {"rules/shared/": rules, "process.py": runtimes}
    family = ("__init__.py", "family.py", "names.py", "blocks.py", "gguf.py", "onnx.py")
    beside |= dict.fromkeys(family, "converters/clip")
    beside |= {"format.py": "formats/gguf", "runtime.py": f"{runtimes}/llama_cpp", "doctor.py": "epmq_export"}
    for name in named:
        assert [*(ROOT / beside.get(name, ".")).glob(name.rstrip("/"))], name
