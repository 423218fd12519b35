"""The suites: what a recipe says of their tasks, and the command that trains their experts."""

import shlex
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest
import yaml

from benchmarks.accuracy.suites import SUITES, TEXT_FILE, Suite
from benchmarks.experts import language_tasks, training
from epmq_export.recipe.load import load_recipe
from tests.benchmarks.stand_ins import image_data, text_task
from tests.benchmarks.test_commands import run


@pytest.mark.parametrize("suite", SUITES.values(), ids=list(SUITES))
def test_the_experts_are_trained_by_a_command(
    suite: Suite, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = []

    def remember(names: Iterable[str], out: Path) -> Iterator[str]:
        asked.extend((name, out) for name in names)
        return iter(())

    monkeypatch.setattr(training, "unfinished", remember)
    program, *words = shlex.split(suite.training(tmp_path / "data", tmp_path / "out", suite.tasks[:2]))
    assert (program, words[0]) == ("python", "-m")
    run(words[1].removeprefix("benchmarks."), *words[2:])
    assert asked == [(task, tmp_path / "out") for task in suite.tasks[:2]]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small data of every task, as many labels as it has answers."""
    place = tmp_path_factory.mktemp("suites")
    asked = {**language_tasks.TASKS, **language_tasks.T5_TASKS}
    for task in {task for suite in SUITES.values() if suite.file == TEXT_FILE for task in suite.tasks}:
        known = asked.get(task, language_tasks.TASKS["sst2"])
        labels = tuple(f"label {i}" for i in range(len(known.answers)))
        text_task(place / task, labels=labels, train=12, pair=bool(known.columns))
    return image_data(place / "images").parent


@pytest.mark.parametrize("suite", SUITES.values(), ids=list(SUITES))
def test_each_task_is_a_recipes_task(suite: Suite, data: Path, tmp_path: Path) -> None:
    source = data if suite.file == TEXT_FILE else data / "images"
    assert all((source / suite.file.format(task)).is_file() for task in suite.tasks)
    for model in ("base", "expert"):
        (tmp_path / model).mkdir()
    (tmp_path / "experts" / "heads").mkdir(parents=True)
    for task in suite.tasks:
        (tmp_path / "experts" / "heads" / f"{task}.safetensors").touch()
    tasks = {
        task: {"expert": "./expert", **suite.entry(source, tmp_path / "experts", tmp_path, task, 4)}
        for task in suite.tasks
    }
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"base_model": "./base", "tasks": tasks}, sort_keys=False))
    assert list(load_recipe(recipe).tasks) == list(suite.tasks)
