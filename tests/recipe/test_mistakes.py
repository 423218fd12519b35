"""Mistakes with their key and line."""

from pathlib import Path

from tests.recipe.written import FULL, load


def test_a_later_finding_gets_the_line_of_its_key(folder: Path) -> None:
    recipe = load(folder, FULL)
    assert str(recipe.mistake(("models", 1, "parameters", "density"), "found 7")).endswith(
        "recipe.yaml:7: models[1].parameters.density: found 7"
    )
    assert str(recipe.mistake(("calibration", "unwritten"), "found 7")).endswith(
        "recipe.yaml:28: calibration.unwritten: found 7"
    )
