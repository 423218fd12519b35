"""What a recipe names, and which of it is here."""

from pathlib import Path

from epmq_export.pipeline.forecast.inventory import data
from epmq_export.recipe.load import load_recipe


def test_a_file_of_several_tasks_is_told_once_with_all_of_them(tmp_path: Path) -> None:
    (tmp_path / "texts.txt").write_text("a\nb\n")
    (tmp_path / "test.txt").write_text("c\n")
    tasks = {
        "one": "{expert: org/one, calibration: texts.txt, evaluation: test.txt}",
        "two": "{expert: org/two, calibration: [texts.txt, texts.txt]}",
    }
    lines = "".join(f"  {name}: {task}\n" for name, task in tasks.items())
    (tmp_path / "recipe.yaml").write_text(f"base_model: org/base\ntasks:\n{lines}")
    found = {each.role: each.name for each in data(load_recipe(tmp_path / "recipe.yaml"))}
    assert found == {"calibration of one, two": "texts.txt", "evaluation of one": "test.txt"}
