"""What README shows works: its recipe loads, its commands are there, its Python uses what there is."""

import ast
import re
from pathlib import Path

import typer.main

import epmq_export
from cli import app
from tests import ROOT

TEXT = (ROOT / "README.md").read_text(encoding="utf-8")


def test_the_first_recipe_is_one(tmp_path: Path) -> None:
    (recipe,) = re.findall(r"```yaml\n(.*?)```", TEXT, re.S)
    for name in ("experts/tickets", "experts/reviews", "data"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("tickets.txt", "tickets.test.tsv", "reviews.txt"):
        (tmp_path / "data" / name).touch()
    (tmp_path / "recipe.yaml").write_text(recipe, encoding="utf-8")
    assert sorted(epmq_export.load_recipe(tmp_path / "recipe.yaml").tasks) == ["reviews", "tickets"]


def test_every_command_and_option_is_there() -> None:
    commands = typer.main.get_group(app).commands
    used = re.findall(r"(?:`|^    )epmq (\w+)([^`\n#]*)", TEXT, re.M)
    assert {name for name, _ in used} == {*commands} - {"demo"}
    for name, rest in used:
        options = {option for parameter in commands[name].params for option in parameter.opts}
        assert set(re.findall(r"(?<!\S)--?[a-z][\w-]*", rest)) <= options, name
    for line in TEXT.splitlines():
        if found := re.match(r"\| `epmq (\w+)", line):
            options = {option for parameter in commands[found[1]].params for option in parameter.opts}
            assert set(re.findall(r"(?<!\S)`?(--[a-z][\w-]*)", line)) <= options, line


def test_the_python_of_the_page_uses_what_there_is() -> None:
    (program,) = re.findall(r"```python\n(.*?)```", TEXT, re.S)
    used = {
        node.attr
        for node in ast.walk(ast.parse(program))
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "epmq"
    }
    assert used and used <= set(epmq_export.__all__)
    assert {"stage", "text"} <= set(epmq_export.Progress.__dataclass_fields__)
    assert {"passed", "broken"} <= {*dir(epmq_export.Verdict), *epmq_export.Verdict.__dataclass_fields__}
    assert "model" in epmq_export.Evaluation.__dataclass_fields__


def test_every_dependency_has_its_reason() -> None:
    """`types-...` and the tools of `dev` are nobody's but ours."""
    project = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    needed = re.findall(
        r'^    "([\w-]+)[>=]', project.partition("dependencies = [")[2].partition("\n]")[0], re.M
    )
    table = TEXT.partition("## Dependencies, and why")[2].partition("\n## ")[0].lower()
    assert len(needed) > 10
    assert [
        name for name in needed if not re.search(rf"(?<![\w-]){re.escape(name.lower())}(?![\w-])", table)
    ] == []
