"""The recipes of `recipes/`: valid, written from one list, and of use without a network."""

import json
import os
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from epmq_export.installed import registry
from epmq_export.pipeline.forecast.forecast import Forecaster
from epmq_export.recipe.load import load_recipe
from epmq_export.recipe.task import RecipeData
from tests import ROOT
from tests.command_line.command import ENVIRONMENT

FOLDER = ROOT / "recipes"
RECIPES = sorted(FOLDER.glob("*.yaml"))
COUNTS = {
    "clip-vit-b32-8tasks": 8,
    "clip-vit-b32-14tasks": 14,
    "clip-vit-b32-20tasks": 20,
    "clip-vit-l14-8": 8,
    "clip-vit-l14-14": 14,
    "clip-vit-l14-20": 20,
    "flan-t5-base-glue": 8,
    "flan-t5-base-glue-lora": 8,
    "roberta-base-glue": 8,
}
GLUE = ["cola", "mnli", "mrpc", "qnli", "qqp", "rte", "sst2", "stsb"]
RULES = {"ta": "task_arithmetic", "ties": "ties", "tsvm": "tsvm"}
# The names whose merges are E-PMQ's two; FLAN-T5's and RoBERTa's are these alone.
OF_THE_PAPER = {name for name in COUNTS if not name.endswith(("14tasks", "20tasks"))}


def test_the_files_are_what_make_writes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))  # as for a script that lies there
    make: dict[str, Any] = runpy.run_path(str(FOLDER / "make.py"))
    assert {path.name for path in RECIPES} == set(make["FILES"])
    for path in RECIPES:
        assert path.read_text(encoding="utf-8") == make["FILES"][path.name](), (
            f"{path.name}: run recipes/make.py"
        )


def test_every_paper_table_has_its_recipe() -> None:
    paper = {f"{name}-{rule}" for name in OF_THE_PAPER for rule in ("ta", "ties")}
    later = {f"{name}-tsvm" for name in COUNTS if name.startswith("clip")}
    assert {path.stem for path in RECIPES} == paper | later


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_recipe_is_valid_and_says_what_the_paper_does(path: Path) -> None:
    recipe = load_recipe(path)
    name, _, rule = path.stem.rpartition("-")
    assert len(recipe.tasks) == len(recipe.experts) == COUNTS[name]
    assert recipe.merge_method == RULES[rule]
    assert rule == "tsvm" or recipe.parameters["lambda"] == 0.3
    assert (
        recipe.calibration.samples == (256 if name.startswith("clip") else 128)
        and recipe.calibration.method == "anchored"
    )
    for task in recipe.tasks.values():
        if name.startswith("roberta"):
            assert not task.templates and task.metric is task.head is None
            continue
        assert 2 <= len(task.templates) <= 4 or task.metric is not None
        assert task.expert.startswith(f"tanganke/{recipe.base_model.partition('/')[2]}_")


@pytest.mark.parametrize(
    "path", [path for path in RECIPES if path.stem.startswith("flan")], ids=lambda path: path.stem
)
def test_glue_is_asked_in_words(path: Path) -> None:
    recipe = load_recipe(path)
    assert [*recipe.tasks] == GLUE
    for name, task in recipe.tasks.items():
        assert task.expert.endswith("_lora-16") == ("-lora-" in path.stem)
        assert task.metric == ("spearman" if name == "stsb" else "exact_match") and (task.labels is None) == (
            name == "stsb"
        )
        (calibration,), evaluation = task.calibration, task.evaluation
        assert isinstance(calibration, RecipeData) and isinstance(evaluation, RecipeData)
        assert (
            calibration.config == evaluation.config == name
            and calibration.texts == evaluation.texts is not None
        )
        assert calibration.split == "train" and evaluation.split == (
            "validation_matched" if name == "mnli" else "validation"
        )
        # What the experts were taught to answer.
        said = set((task.labels or {}).values())
        assert said in (
            {"yes", "no"},
            {"unacceptable", "acceptable"},
            {"positive", "negative"},
            {"entailment", "neutral", "contradiction"},
            set(),
        )
    # In the order of the data set's own classes.
    assert (
        [*(recipe.tasks["qnli"].labels or {}).values()]
        == [*(recipe.tasks["rte"].labels or {}).values()]
        == ["yes", "no"]
    )
    assert (
        [*(recipe.tasks["mrpc"].labels or {}).values()]
        == [*(recipe.tasks["qqp"].labels or {}).values()]
        == ["no", "yes"]
    )


@pytest.mark.parametrize(
    "path", [path for path in RECIPES if path.stem.startswith("roberta")], ids=lambda path: path.stem
)
def test_classifiers_are_given_pairs_as_their_tokenizer_has_them(path: Path) -> None:
    recipe = load_recipe(path)
    assert [*recipe.tasks] == GLUE
    for name, task in recipe.tasks.items():
        assert task.expert == f"JeremiahZ/roberta-base-{name}"
        (calibration,) = task.calibration
        assert isinstance(calibration, RecipeData) and calibration.texts is not None
        pair = len(calibration.texts) == 2
        assert task.prompt == ("</s></s>".join(f"{{{each}}}" for each in calibration.texts) if pair else "{}")
        assert (task.labels is None) == (name == "stsb")


def test_classes_stand_in_the_order_of_their_indices() -> None:
    tasks = load_recipe(FOLDER / "clip-vit-l14-20-ta.yaml").tasks
    counts = {
        "eurosat": 10,
        "svhn": 10,
        "gtsrb": 43,
        "mnist": 10,
        "pcam": 2,
        "fer2013": 7,
        "emnist_letters": 26,
        "kmnist": 10,
        "rendered-sst2": 2,
    }
    assert {name: len(task.labels) for name, task in tasks.items() if task.labels is not None} == counts
    signs = list(tasks["gtsrb"].labels or ())
    assert [
        signs.index(sign)
        for sign in ("speed limit 20", "stop", "no entry", "roundabout", "end of no overtaking for trucks")
    ] == [0, 14, 17, 40, 42]


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_a_dry_run_works_of_every_recipe(path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    recipe = load_recipe(path)
    found = Forecaster(registry(), torch.device("cpu")).forecast(recipe)
    assert [place.name for place in found.models] == [
        recipe.base_model,
        *(model.model for model in recipe.experts),
    ]
    assert {place.sentence for place in [*found.models, *found.data]} == {"not here: will be downloaded"}


def test_the_command_needs_no_network(tmp_path: Path) -> None:
    """With a hub's cache of its own, since a developer's may hold these models. One process is asked for two
    recipes.
    """
    paths = [RECIPES[0], RECIPES[-1]]
    program = (
        "import sys, cli\n"
        "for path in sys.argv[1:]:\n"
        "    sys.argv = ['epmq', 'run', '--dry-run', path, '--json']\n"
        "    try: cli.main()\n"
        "    except SystemExit as end: assert not end.code, end.code\n"
        "    print('---')"
    )
    environment = {**ENVIRONMENT, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")}
    environment["PYTHONPATH"] = os.pathsep.join((environment["PYTHONPATH"], str(ROOT)))
    command = [sys.executable, "-c", program, *map(str, paths)]
    result = subprocess.run(
        command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300
    )
    assert result.returncode == 0, result.stderr
    for path, said in zip(paths, result.stdout.split("---\n")[:-1], strict=True):
        recipe, found = load_recipe(path), json.loads(said)
        assert {place["name"] for place in found["models"]} == {
            recipe.base_model,
            *(model.model for model in recipe.experts),
        }
        assert {place["state"] for place in found["models"] + found["data"]} == {
            "not here: will be downloaded"
        }
        assert len(found["data"]) == 2 * len(recipe.tasks)
        assert found["family"] is found["memory"] is found["time"] is None and not found["files"]
        assert found["unknown"][0].startswith("base: not here: ")
    assert not [file for file in tmp_path.rglob("*") if file.is_file()]
