"""What a recipe says of a task, as the rooms below it take it."""

from dataclasses import fields
from pathlib import Path

import pytest

from epmq_export.data.request import DataRequest
from epmq_export.data.task import Metric
from epmq_export.recipe.task import RecipeData, request_of
from tests.recipe.written import load


def test_a_request_has_every_key_of_a_recipes_data(tmp_path: Path) -> None:
    written = {
        "dataset": "org/d@main",
        "config": "small",
        "split": "train[:10]",
        "texts": ["a", "b"],
        "labels": "y",
    }
    assert {field.name for field in fields(DataRequest)} == set(RecipeData.model_fields)
    assert RecipeData.model_construct(**written).request() == DataRequest(**written)
    assert request_of(RecipeData.model_construct(path=tmp_path, images="x")) == DataRequest(
        path=tmp_path, images="x"
    )
    assert request_of(tmp_path) == DataRequest(path=tmp_path)


def test_a_request_names_one_place(tmp_path: Path) -> None:
    for places in ({}, {"path": tmp_path, "dataset": "org/d"}):
        with pytest.raises(ValueError, match="expected one of them"):
            DataRequest(**places)


def test_metrics_are_told_by_the_recipes_words() -> None:
    assert [f"{metric}" for metric in Metric] == ["exact_match", "spearman"]


IMAGES = """\
base_model: ./base
frozen: [text_model.*]
tasks:
  pets:
    expert: ./mood
    calibration:
      [data, mood.txt, {path: data, split: train}, {path: data/pets.npz, images: x_train, labels: y_train}]
    evaluation: {dataset: org/pets@v1, config: small, split: "train[:10]", images: img, labels: species}
    labels: [cat, dog]
    templates: ["a photo of a {}."]
  shapes:
    expert: org/shapes
    calibration: {dataset: shapes}
    evaluation: data
    head: data/head.safetensors
"""


def test_images_and_heads(folder: Path) -> None:
    for name in ("pets.npz", "head.safetensors"):
        (folder / "data" / name).touch()
    recipe = load(folder, IMAGES)
    pets, shapes = recipe.tasks["pets"], recipe.tasks["shapes"]
    assert pets.calibration == [
        folder / "data",
        folder / "mood.txt",
        RecipeData.model_construct(path=folder / "data", split="train"),
        RecipeData.model_construct(path=folder / "data/pets.npz", images="x_train", labels="y_train"),
    ]
    assert pets.evaluation == RecipeData.model_construct(
        dataset="org/pets@v1", config="small", split="train[:10]", images="img", labels="species"
    )
    assert (pets.templates, pets.head, recipe.frozen) == (["a photo of a {}."], None, ["text_model.*"])
    assert shapes.calibration == [RecipeData.model_construct(dataset="shapes")]
    assert (shapes.evaluation, shapes.head, shapes.labels) == (
        folder / "data",
        folder / "data/head.safetensors",
        None,
    )
    # What they name is hashed: directories, too, and each once.
    assert recipe.files == [
        folder / name for name in ("data", "mood.txt", "data/pets.npz", "data/head.safetensors")
    ]


PAIRS = """\
base_model: ./base
tasks:
  mrpc:
    expert: ./mood
    prompt: "First: {sentence1}\\nSecond: {sentence2}\\nThe same?"
    calibration:
      - {path: data, texts: [sentence1, sentence2]}
      - {dataset: nyu-mll/glue, config: mrpc, texts: [sentence2, sentence1]}
    evaluation:
      {dataset: nyu-mll/glue, config: mrpc, split: validation, texts: [sentence1, sentence2], labels: label}
    labels: {not_equivalent: "no", equivalent: "yes"}
  sst2:
    expert: org/sst2
    prompt: "{sentence} is: {}"
    calibration: [mood.txt, {dataset: nyu-mll/glue, texts: sentence}]
"""


def test_texts_of_tables(folder: Path) -> None:
    recipe = load(folder, PAIRS)
    mrpc, sst2 = recipe.tasks["mrpc"], recipe.tasks["sst2"]
    assert mrpc.data == [
        (
            ("calibration", 0),
            RecipeData.model_construct(path=folder / "data", texts=["sentence1", "sentence2"]),
        ),
        (
            ("calibration", 1),
            RecipeData.model_construct(
                dataset="nyu-mll/glue", config="mrpc", texts=["sentence2", "sentence1"]
            ),
        ),
        (
            ("evaluation",),
            RecipeData.model_construct(
                dataset="nyu-mll/glue",
                config="mrpc",
                split="validation",
                texts=["sentence1", "sentence2"],
                labels="label",
            ),
        ),
    ]
    # Of one text the name is nothing to the prompt, where other braces are text.
    assert sst2.calibration == [
        folder / "mood.txt",
        RecipeData.model_construct(dataset="nyu-mll/glue", texts=["sentence"]),
    ]
    assert recipe.files == [folder / "data", folder / "mood.txt"]
