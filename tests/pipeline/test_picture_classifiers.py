"""Experts that classify pictures: each brings the head of its own task, as those of texts do."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import AutoModelForImageClassification

import epmq_export as epmq
from converters import naming, open_family
from converters.from_gguf.checkpoint import GgufBase
from epmq_export.data.task import Task
from epmq_export.errors import RecipeError
from epmq_export.models import reference
from epmq_export.models.classifiers import WEIGHTS, columns_of
from epmq_export.models.family import heads_of
from epmq_export.models.model_set import ModelSet
from epmq_export.models.processor import load_processor, preprocess
from epmq_export.pipeline.models import open_checkpoints, open_models
from epmq_export.pipeline.tasks import load_tasks
from epmq_export.verification.probes import hard_pictures
from epmq_export.verification.runtimes.onnxruntime.runtime import open_session
from tests.tiny import vit
from tests.tiny.image_files import folders

CPU = torch.device("cpu")
CLASSES = {"colour": ("red", "green", "blue"), "warm": ("cold", "warm")}


def classifier(directory: Path, base: Path, classes: tuple[str, ...], seed: int) -> Any:
    """Write a classifier that was trained from the base, and return it."""
    torch.manual_seed(seed)
    names = dict(enumerate(classes))
    settings = {"id2label": names, "label2id": {name: place for place, name in names.items()}}
    model = AutoModelForImageClassification.from_pretrained(base, ignore_mismatched_sizes=True, **settings)
    with torch.no_grad():
        for value in model.parameters():
            value += 0.02 * torch.randn_like(value)
    model.save_pretrained(directory)
    return model.eval()


def project(folder: Path, architecture: str) -> None:
    """Write a base, a classifier of it for each task, and pictures."""
    base = vit.vit(folder / "base", architecture, num_labels=2)
    for seed, (name, classes) in enumerate(CLASSES.items()):
        classifier(folder / name, base, classes, seed + 1)
        pixels, labels = vit.pictures(24, seed)
        np.savez(folder / f"{name}.npz", x=pixels, y=labels % len(classes))


def recipe(folder: Path, **changes: dict[str, object]) -> Path:
    """Write the recipe, with changes to its tasks by their names, and return its path."""
    tasks = {}
    for name in CLASSES:
        data = {"path": f"{name}.npz", "images": "x"}
        task = {"expert": f"./{name}", "calibration": data, "evaluation": {**data, "labels": "y"}}
        tasks[name] = {**task, **changes.get(name, {})}
    path = folder / "recipe.yaml"
    content = {"base_model": "./base", "tasks": tasks, "calibration": {"samples": 8, "refine": 2}}
    path.write_text(yaml.safe_dump(content, sort_keys=False))
    return path


def opened(path: Path) -> ModelSet:
    read = epmq.load_recipe(path)
    return open_models(read, open_checkpoints(read, GgufBase, naming), open_family)


def tasks(folder: Path, **changes: dict[str, object]) -> list[Task]:
    read = epmq.load_recipe(recipe(folder, **changes))
    return load_tasks(read, opened(read.path).family)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("pictures")
    project(made, "ViTModel")
    return made


@pytest.mark.parametrize(
    "architecture",
    ["ViTModel", "DeiTModel", "Dinov2Model", "Dinov2ForImageClassification", "Dinov2WithRegistersModel"],
)
def test_scores_are_those_of_transformers(architecture: str, tmp_path: Path) -> None:
    project(tmp_path, architecture)
    models, pictures = opened(recipe(tmp_path)), hard_pictures()
    columns = columns_of(heads_of(models.family))
    assert {head.task: head.classes for head in heads_of(models.family)} == CLASSES
    pixels = torch.from_numpy(preprocess(load_processor(tmp_path / "base"), pictures))
    for name, expert in zip(CLASSES, models.experts.values(), strict=True):
        with torch.no_grad():
            own: Any = AutoModelForImageClassification.from_pretrained(tmp_path / name).eval()
            expected = own(pixels).logits.numpy()
        found = reference.outputs(models.family, expert, pictures, CPU)[:, columns[name]]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize(
    ("changes", "truth"),
    [
        ({}, [0, 1, 2, 0]),
        ({"labels": ["blue", "Green", "red"]}, [2, 1, 0, 2]),
        ({"labels": {"a": "green", "b": "red", "c": "blue"}}, [1, 0, 2, 1]),
        ({"labels": ["hot", "mild", "cool"]}, [0, 1, 2, 0]),
    ],
)
def test_data_count_the_classes_as_the_recipe_does(
    folder: Path, changes: dict[str, object], truth: list[int]
) -> None:
    task, _ = tasks(folder, colour=changes)
    assert task.truth is not None and task.truth[:4].tolist() == truth
    assert not task.prompts and task.head is None and not task.notes


def test_folders_are_called_as_the_experts_classes(folder: Path, tmp_path: Path) -> None:
    folders(tmp_path / "signs", Blue=2, red=2)
    (task, _) = tasks(folder, colour={"evaluation": str(tmp_path / "signs")})
    assert task.truth is not None and sorted(task.truth.tolist()) == [0, 0, 2, 2]


def test_pictures_without_labels_are_judged_by_the_expert(folder: Path) -> None:
    task, _ = tasks(folder, colour={"evaluation": {"path": "colour.npz", "images": "x", "labels": None}})
    assert task.truth is not None  # An array of that name is found by itself.
    np.savez(folder / "bare.npz", x=np.load(folder / "colour.npz")["x"])
    task, _ = tasks(folder, colour={"evaluation": "bare.npz"})
    (told,) = task.notes
    assert task.truth is None and "images have no labels, so what its expert says of them" in told


def test_a_number_is_no_class_of_a_picture(folder: Path, tmp_path: Path) -> None:
    classifier(tmp_path / "age", folder / "base", ("age",), 5)
    with pytest.raises(RecipeError, match=r"colour.evaluation: found images with labels, .* gives a number"):
        tasks(folder, colour={"expert": str(tmp_path / "age")})


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT's doing
def test_an_adapter_brings_the_head_that_it_saves(folder: Path, tmp_path: Path) -> None:
    """peft has no task of pictures: the adapter says the class that it was trained on."""
    torch.manual_seed(4)
    model: Any = AutoModelForImageClassification.from_pretrained(folder / "base", num_labels=4)
    settings = LoraConfig(target_modules=["q_proj"], modules_to_save=["classifier"])
    adapted = get_peft_model(model, settings)
    adapted.save_pretrained(str(tmp_path))
    models = opened(recipe(folder, colour={"expert": str(tmp_path)}))
    assert heads_of(models.family)[0].classes == tuple(f"LABEL_{place}" for place in range(4))
    own = adapted.base_model.model.classifier.modules_to_save["default"].weight
    assert torch.equal(models.base.load("classifiers.0.out.weight"), own)


def test_a_merge_has_the_heads_beside_it(folder: Path) -> None:
    merged = epmq.merge(recipe(folder), folder / "merged")
    found = load_file(merged / WEIGHTS)
    assert found.keys() == {f"{name}.out.{part}" for name in CLASSES for part in ("weight", "bias")}
    own = load_file(folder / "warm" / "model.safetensors")["classifier.weight"]
    assert torch.equal(found["warm.out.weight"], own)


def test_a_whole_run(tmp_path: Path) -> None:
    project(tmp_path, "Dinov2Model")
    verdict = epmq.run(recipe(tmp_path), tmp_path / "out")
    (file,) = verdict.files
    assert all(file.checks[name].passed for name in ("codes", "metadata", "graph")), verdict.broken
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["about"]["pipeline_tag"] == "image-classification"
    assert epmq.evaluate(file.path, tmp_path / "recipe.yaml").model == pytest.approx(
        report["scores"][file.row]
    )
    made = {value.name: value.shape for value in open_session(Path(file.path), exact=True).get_outputs()}
    assert {*made} == {"last_hidden_state", "logits_colour", "logits_warm"} and made["logits_colour"][1] == 3
    assert "`logits_` with" in (tmp_path / "out" / "README.md").read_text()
    classes: Mapping[str, Any] = json.loads((tmp_path / "out" / "onnx" / "classifiers.json").read_text())
    assert {name: tuple(found) for name, found in classes.items()} == CLASSES
