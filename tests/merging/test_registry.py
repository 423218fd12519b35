"""A rule is known by its own file alone."""

import sys
from importlib import import_module
from pathlib import Path

import pytest

from epmq_export.merging import rules
from epmq_export.merging.registry import RULES, rules_in
from tests.tiny.merges import needed, settings_of

FILES = sorted(path.stem for path in Path(rules.__path__[0]).glob("*.py") if path.stem != "__init__")


@pytest.mark.parametrize("file", FILES)
def test_every_file_among_the_rules_is_one(file: str) -> None:
    own = import_module(f"{rules.__name__}.{file}").RULES
    assert own and all(RULES[name] is rule for name, rule in own.items())


def test_rules_are_told_in_the_order_of_their_names() -> None:
    assert list(RULES) == sorted(RULES) and len(RULES) >= 17


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_says_what_it_costs(rule: str) -> None:
    cost = RULES[rule].cost.format(experts=3, more=4)
    assert cost.strip() and "{" not in cost


MINE = """
from epmq_export.merging.rule import Rule

RULES = {"mine": Rule(lambda inputs: lambda tensor: inputs.base(tensor), {}, cost="a copy of the base")}
"""


def test_a_new_rule_needs_no_other_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "rules_of_mine"
    folder.mkdir()
    for name in ("__init__.py", "mine.py"):
        (folder / name).write_text("" if name == "__init__.py" else MINE)
    monkeypatch.syspath_prepend(str(tmp_path))
    assert list(rules_in(import_module("rules_of_mine"))) == ["mine"]
    (folder / "once_more.py").write_text(MINE)
    with pytest.raises(ValueError, match=r"once_more: found the rules \['mine'\] again"):
        rules_in(import_module("rules_of_mine"))
    for name in [name for name in sys.modules if name.startswith("rules_of_mine")]:
        monkeypatch.delitem(sys.modules, name)


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_settings_that_its_defaults_satisfy(rule: str) -> None:
    models = [(str(index), {}) for index in range(RULES[rule].experts[0])]
    assert settings_of(rule, needed(rule), models).rule == rule
