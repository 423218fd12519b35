"""Mistakes that rules and merges find get the recipe's file and the line of the level that they come from."""

from pathlib import Path

import pytest
import torch

from epmq_export.errors import RecipeError, SettingError
from epmq_export.merging.assembly import assemble
from epmq_export.recipe.plan import plan_of
from epmq_export.recipe.recipe import Recipe
from tests.recipe.written import load
from tests.tiny.in_memory import InMemory

TWO = """base_model: org/base
merge_method: linear
models:
  - model: org/a
    parameters:
      weight: 1
  - model: org/b
    parameters:
      weight: -1
"""


def merge(recipe: Recipe) -> None:
    models = {
        name: InMemory({"model.layers.0.weight": torch.full((2, 2), float(number))})
        for number, name in enumerate(("org/base", "org/a", "org/b"))
    }
    with recipe.located():
        source = assemble(plan_of(recipe), models)
        for name in source.names():
            source.load(name)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        (TWO, ":9: models[1].parameters.weight: the weights of model.layers.0.weight sum to 0"),
        (
            TWO.replace("linear", "ties"),
            ":9: models[1].parameters.weight: weight of org/b is -1, expected 0 or more: ties divides",
        ),
        (
            TWO.replace("linear", "ties").replace(
                "      weight: -1\n", "      weight: {filter: x, value: 1}\n"
            )
            + "parameters:\n  weight: [1, -2]\n",
            ":11: parameters.weight: weight of org/b is -2, expected 0 or more: ties divides",
        ),
        (
            TWO.replace("linear", "della").replace("-1", "1")
            + "parameters:\n  density: 0.9\n  epsilon: 0.2\n",
            (
                ":12: parameters.epsilon: epsilon of org/a is 0.2 for model.layers.0.weight, expected less "
                "than 0.1"
            ),
        ),
        (
            TWO.replace("linear", "della").replace("-1", "1") + "parameters:\n  density: 0.9\n",
            ":10: parameters.epsilon: epsilon of org/a is 0.15 for model.layers.0.weight, expected less",
        ),
        (
            TWO.replace("linear", "dare_linear"),
            ":1: parameters.density: density of org/a is missing, expected a number: it has no default",
        ),
        (
            TWO.replace("linear", "slerp").replace("    parameters:\n      weight: -1\n", "")
            + "  - model: org/c\n",
            ":3: models: found 3 experts, expected 1 or 2 for slerp",
        ),
    ],
)
def test_mistakes_of_settings(tmp_path: Path, text: str, sentence: str) -> None:
    recipe = load(tmp_path, text)
    with pytest.raises(RecipeError) as caught:
        merge(recipe)
    assert str(caught.value).startswith(f"{tmp_path}/recipe.yaml{sentence}")
    assert not isinstance(caught.value, SettingError)


def test_a_mistake_without_a_file_is_told_by_its_key() -> None:
    error = SettingError(("models", 1, "parameters", "density"), "found 7, expected a share")
    assert str(error) == "models[1].parameters.density: found 7, expected a share" and error.exit_code == 2


def test_a_level_does_not_hide_the_next_ones_mistakes(tmp_path: Path) -> None:
    text = TWO.replace("linear", "ties").replace("weight: -1", "weight: 1") + "parameters: {weight: heavy}\n"
    with pytest.raises(RecipeError, match=r"recipe\.yaml:10: parameters\.weight: weight of org/a is 'heavy'"):
        plan_of(load(tmp_path, text))
