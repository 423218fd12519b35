"""The rooms of the house: who may import whom."""

import ast
from collections.abc import Iterator
from functools import cache
from graphlib import TopologicalSorter

import pytest

from tests import ROOT

PACKAGES = ("epmq_export", "converters", "formats", "benchmarks")
MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path
    for path in [ROOT / "cli.py", *(path for package in PACKAGES for path in (ROOT / package).rglob("*.py"))]
}
FLOORS: list[set[str]] = [
    {"errors", "_version", "threads"},
    {"files", "ranks"},
    {"grids"},
    {"tensors"},
    {"models"},
    {"data", "merging", "calibration"},
    {"recipe"},
    {"verification", "publishing"},
    {"pipeline"},
    {"doctor"},
    {"console"},
    {"installed"},
    {"api"},
]
"""The rooms of `epmq_export`, from the lowest floor to the highest."""

MAY: dict[str, set[str]] = {
    "converters": {"errors", "files", "tensors", "models"},
    "formats": {"errors", "_version", "files", "grids", "tensors", "models"},
    "cli": {"api", "console", "doctor", "errors", "_version", "ranks", "threads"},
    "benchmarks": set().union(*FLOORS) - {"console", "doctor"},
}
"""What each of the others may import of `epmq_export`."""


@cache
def imports(module: str) -> frozenset[str]:
    """Return the project's own modules that a module imports, wherever in it the import stands."""
    return frozenset(_imports(module))


def _imports(module: str) -> Iterator[str]:
    for node in ast.walk(ast.parse(MODULES[module].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name in MODULES)
        elif isinstance(node, ast.ImportFrom) and node.module is not None and node.level == 0:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
            # `from package import name` needs the package itself only for names that are no modules.
            yield from (name for name in names if name in MODULES)
            if node.module in MODULES and any(name not in MODULES for name in names):
                yield node.module


def package(module: str) -> str:
    return module.partition(".")[0]


def room(module: str) -> str:
    """Return the room of a module of `epmq_export`; the package's own `__init__` is the face, as `api` is."""
    return module.split(".")[1] if "." in module else "api"


def floor(module: str) -> int:
    return next(i for i, rooms in enumerate(FLOORS) if room(module) in rooms)


OURS = sorted(module for module in MODULES if package(module) == "epmq_export")


def test_every_room_has_a_floor() -> None:
    assert {room(module) for module in OURS} == set().union(*FLOORS)


@pytest.mark.parametrize("module", OURS)
def test_a_room_imports_lower_floors_only(module: str) -> None:
    wrong = {
        name
        for name in imports(module)
        if package(name) == "epmq_export" and room(name) != room(module) and floor(name) >= floor(module)
    }
    assert not wrong


@pytest.mark.parametrize("module", sorted(set(MODULES) - set(OURS)))
def test_the_others_know_what_they_may(module: str) -> None:
    known = {room(name) for name in imports(module) if package(name) == "epmq_export"}
    assert known <= MAY[package(module)]


@pytest.mark.parametrize("module", sorted(MODULES))
def test_only_the_composition_root_knows_converters_and_formats(module: str) -> None:
    others = {package(name) for name in imports(module)} - {"epmq_export", package(module)}
    assert others == set() or (module == "epmq_export.installed" and others == {"converters", "formats"})


def test_no_two_files_import_each_other() -> None:
    graph = {module: set(imports(module)) - {module} for module in MODULES}
    order = list(TopologicalSorter(graph).static_order())  # CycleError names the cycle
    assert set(order) == set(MODULES)


def test_no_two_rooms_import_each_other() -> None:
    def inside(module: str) -> str:
        return room(module) if package(module) == "epmq_export" else package(module)

    graph: dict[str, set[str]] = {}
    for module in MODULES:
        graph.setdefault(inside(module), set()).update(
            inside(name) for name in imports(module) if inside(name) != inside(module)
        )
    order = list(TopologicalSorter(graph).static_order())
    assert set(order) == set(graph)
