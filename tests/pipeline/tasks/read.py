"""The tasks of a recipe, read for a family of which nothing more is asked than what it reads."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any

from epmq_export.data.task import Task
from epmq_export.models.family import Images
from epmq_export.pipeline.tasks import load_tasks
from epmq_export.recipe.load import load_recipe

TEXTS: Any = SimpleNamespace(images=None, language=None, zero_shot=None, classifiers=None)
PICTURES: Any = SimpleNamespace(images=Images(numbers=3, tokens=1), language=None, classifiers=None)


def tasks_of(folder: Path, body: str, samples: int = 2, family: Any = TEXTS) -> list[Task]:
    (folder / "recipe.yaml").write_text(
        f"base_model: org/base\ncalibration: {{samples: {samples}}}\ntasks:\n  mood:\n    expert: "
        f"org/mood\n{body}"
    )
    return load_tasks(load_recipe(folder / "recipe.yaml"), family)
