"""Formats that share a calibration, and those that take one apart."""

import pytest

from converters import open_family
from epmq_export.grids import BUDGET
from epmq_export.installed import registry
from epmq_export.models.family import Family
from epmq_export.pipeline.targets import Target, targets
from epmq_export.recipe.recipe import Recipe, RecipeQuantization
from tests.tiny.bert import small_bert


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Family:
    return open_family(small_bert(tmp_path_factory.mktemp("small") / "model"))


def asked(family: Family, *names: str, **quantization: object) -> list[Target]:
    """Return the targets of a recipe that says no more than how to quantise."""
    recipe = Recipe.model_construct(quantization=RecipeQuantization.model_validate(quantization))
    return targets(recipe, family, registry().formats, names)


def test_formats_that_hold_the_layout_share_a_calibration(family: Family) -> None:
    (one,) = asked(family, "onnx", "gguf", grid="Q4_0", overrides={"a*": "Q4_1Z", "b*": "F32"})
    assert set(one.formats) == {"gguf", "onnx"} and one.replaced == {} and one.directory == "packed"


def test_a_format_that_does_not_is_calibrated_apart(family: Family) -> None:
    keys = {"grid": "Q4_K", "embeddings": "Q6_K", "onnx_grid": "Q4_1Z", "overrides": {"a*": "IQ4_NL"}}
    first, second = asked(family, "onnx", "gguf", **keys)
    assert (first.formats, first.replaced, first.directory) == (("gguf",), {}, "packed")
    assert (second.formats, second.directory) == (("onnx",), "packed-onnx")
    assert second.replaced == {"Q4_K": "Q4_1Z", "Q6_K": "Q8_0", "IQ4_NL": "Q4_1Z"}
    (alone,) = asked(family, "onnx", **keys)
    assert alone.replaced == second.replaced and alone.directory == "packed"


def test_a_budget_is_spent_on_what_each_format_holds(family: Family) -> None:
    first, second = asked(family, "gguf", "onnx", bits=5.0)
    assert first.candidates == BUDGET
    assert second.candidates == ("Q4_0", "Q4_1Z", "Q8_0") and second.directory == "packed-onnx"
