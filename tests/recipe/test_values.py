"""What stands for a path, a model or a label."""

from pathlib import Path

import pytest

from epmq_export.recipe.load import load_recipe
from tests.recipe.written import SMALLEST, load


def test_locations(folder: Path) -> None:
    (folder / "a+b").mkdir()
    recipe = load(folder, SMALLEST)
    assert (
        recipe.location("base")
        == recipe.location("./base")
        == recipe.location(str(folder / "base"))
        == str(folder / "base")
    )
    assert recipe.location("org/model") == "org/model"
    assert recipe.location("org/model+adapter") == f"org/model+{folder / 'adapter'}"
    assert recipe.location("base+org/adapter") == f"{folder / 'base'}+org/adapter"
    assert recipe.location("./gone") == str(folder / "gone")
    assert recipe.location("a+b") == str(folder / "a+b")
    assert recipe.location("~/models/x") == str(Path("~/models/x").expanduser())


def test_paths_are_relative_to_the_recipe_wherever_one_stands(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "recipe.yaml").write_text(SMALLEST)
    monkeypatch.chdir(folder / "data")
    recipe = load_recipe(Path("../recipe.yaml"))
    monkeypatch.chdir("/")
    assert recipe.tasks["mood"].calibration[0].samefile(folder / "mood.txt")
    assert Path(recipe.location("./base")).samefile(folder / "base")


def test_labels_from_a_json_file(folder: Path) -> None:
    text = SMALLEST.replace("mood.txt}", "mood.txt, evaluation: data/test.tsv, labels: data/labels.json}")
    (folder / "data/labels.json").write_text('["so_so", "fine"]')
    recipe = load(folder, text)
    assert recipe.tasks["mood"].labels == {"so_so": "so so", "fine": "fine"}
    assert folder / "data/labels.json" in recipe.files
    (folder / "data/labels.json").write_text('{"so_so": "neither good nor bad", "fine": "it is fine"}')
    assert load(folder, text).tasks["mood"].labels == {"so_so": "neither good nor bad", "fine": "it is fine"}
