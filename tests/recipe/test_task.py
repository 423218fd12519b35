"""What a recipe says of a task, as the rooms below it take it."""

from dataclasses import fields
from pathlib import Path

import pytest

from epmq_export.data.request import DataRequest
from epmq_export.data.task import Metric
from epmq_export.recipe.task import RecipeData, request_of


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
