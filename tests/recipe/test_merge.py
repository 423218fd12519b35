"""What is merged: mergekit's files, and the experts of tasks."""

from pathlib import Path

import pytest

from epmq_export.errors import RecipeError
from tests.recipe.written import SMALLEST, load


def test_the_tasks_name_the_models_in_their_order_and_once(folder: Path) -> None:
    text = (
        SMALLEST + "  b: {expert: org/b, calibration: mood.txt}\n  c: {expert: mood, calibration: mood.txt}\n"
    )
    recipe = load(folder, text)
    assert [model.model for model in recipe.models] == ["./mood", "org/b"]
    assert recipe.models == recipe.experts


# As mergekit's own documentation shows them, with shorter names.
LINEAR = """\
models:
  - model: org/mini-13b
    parameters:
      weight: 1.0
  - model: org/other-13b
    parameters:
      weight: 0.3
merge_method: linear
dtype: float16
"""


TASK_ARITHMETIC = """\
base_model: org/base
models:
  - model: org/a
    parameters: {weight: 0.5}
  - model: org/b+org/lora
    parameters: {weight: [0, 0.3, 1]}
merge_method: task_arithmetic
parameters: {normalize: false, lambda: 1.0}
dtype: bfloat16
tokenizer_source: base
"""


TIES = """\
models:
  - model: org/base
    # no parameters necessary for base model
  - model: org/a
    parameters:
      density: [1, 0.7, 0.1] # density gradient
      weight: 1.0
  - model: org/b
    parameters:
      density: 0.33
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
merge_method: ties
base_model: org/base
parameters:
  normalize: true
  int8_mask: true
dtype: float16
"""


def test_mergekit_files_are_recipes_for_merge(folder: Path) -> None:
    linear = load(folder, LINEAR)
    assert linear.base_model == "org/mini-13b"  # whose config and tokenizer the merge gets
    assert [model.model for model in linear.experts] == ["org/mini-13b", "org/other-13b"]
    arithmetic = load(folder, TASK_ARITHMETIC)
    assert [(model.model, model.parameters) for model in arithmetic.experts] == [
        ("org/a", {"weight": 0.5}),
        ("org/b+org/lora", {"weight": [0, 0.3, 1]}),
    ]
    ties = load(folder, TIES)
    assert len(ties.models) == 3
    assert [model.model for model in ties.experts] == ["org/a", "org/b"]
    assert ties.models[0].parameters == {}
    assert ties.parameters == {"normalize": True, "int8_mask": True}
    for recipe in (linear, arithmetic, ties):
        assert not recipe.tasks
        with pytest.raises(
            RecipeError, match=r"recipe\.yaml:1: tasks: found none, expected at least one task"
        ):
            recipe.require_tasks()
