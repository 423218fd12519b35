"""The beginnings of recipes, and what is said of wrong ones."""

from pathlib import Path

import pytest

from epmq_export.errors import RecipeError
from epmq_export.recipe.load import load_recipe

# What follows begins on line 3.
HEAD = "base_model: org/base\nmodels: [{model: org/a}, {model: org/b}]\n"
# What follows begins on line 7.
TASK = HEAD + "tasks:\n  mood:\n    expert: org/a\n    calibration: data/mood.tsv\n"
PAIRS = TASK.replace("data/mood.tsv", "{dataset: org/d, texts: [a, b]}") + "    prompt: '{a} {b}'\n"
LABELLED = TASK + "    evaluation: data/mood.tsv\n"


def refusal(folder: Path, content: str | bytes) -> str:
    """Return the sentence that a recipe is refused with, without the folder."""
    path = folder / "recipe.yaml"
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    with pytest.raises(RecipeError) as caught:
        load_recipe(path)
    assert caught.value.exit_code == 2
    message = str(caught.value)
    assert message.startswith(f"{folder}/recipe.yaml:")
    assert "\n" not in message
    return message.removeprefix(f"{folder}/")
