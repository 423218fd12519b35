"""Who may import whom."""

import ast
from collections.abc import Iterator
from graphlib import TopologicalSorter

import pytest

from tests import ROOT

ROOMS = ("epmq_export", "converters", "formats")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in [ROOT / "cli.py", *(path for room in ROOMS for path in (ROOT / room).rglob("*.py"))]
}


def imports(module: str) -> Iterator[str]:
    """The project's own modules that a module imports, wherever in it the import stands."""
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            # `from package import name` needs the package itself only for names that are no modules.
            yield from (name for name in names if name in MODULES)
            if node.module in MODULES and any(name not in MODULES for name in names):
                yield node.module


def room(module: str) -> str:
    return module.partition(".")[0]


ALLOWED = {
    "epmq_export.api": {"epmq_export", "converters", "formats"},
    "cli": {"epmq_export"},
    "epmq_export": {"epmq_export"},
    "converters": {"epmq_export", "converters"},
    "formats": {"epmq_export", "formats"},
}


@pytest.mark.parametrize("module", sorted(MODULES))
def test_imports_stay_within_what_the_room_may_know(module: str) -> None:
    assert {room(name) for name in imports(module)} <= ALLOWED.get(module, ALLOWED[room(module)])


def test_no_two_files_import_each_other() -> None:
    graph = {module: set(imports(module)) - {module} for module in MODULES}
    order = list(TopologicalSorter(graph).static_order())  # CycleError names the cycle
    assert set(order) == set(MODULES)
