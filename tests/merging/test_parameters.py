import logging
from typing import Any

import pytest

from epmq_export.errors import RecipeError
from epmq_export.merging import merge_settings
from epmq_export.merging.layers import Layers
from epmq_export.merging.parameters import layered, parameter


def at(value: Any, tensor: str = "encoder.layer.2.output.weight", layers: int = 6) -> float:
    return parameter("weight", [value], 1.0).at(tensor, Layers({"encoder.layer": layers}).share(tensor))


def test_a_scalar_is_the_same_everywhere() -> None:
    assert at(0.5) == at(0.5, "embeddings.weight") == 0.5
    assert at(2) == 2.0


def test_no_setting_is_the_default() -> None:
    assert at(None) == 1.0


@pytest.mark.parametrize(("layer", "expected"), [(0, 0.0), (1, 0.2), (2, 0.4), (5, 1.0)])
def test_a_gradient_is_interpolated_over_the_layers(layer: int, expected: float) -> None:
    assert at([0, 0.5, 1.0], f"encoder.layer.{layer}.weight", 6) == pytest.approx(expected)


def test_outside_the_layers_a_gradients_first_number_counts() -> None:
    assert at([0.1, 0.9], "embeddings.LayerNorm.weight") == 0.1
    assert at([0.1, 0.9], "pooler.dense.weight") == 0.1
    assert at([0.1, 0.9], "classifier.0.weight") == 0.1  # a number, but of no stack of layers
    assert at([0.1, 0.9], "encoder.layer.0.weight", layers=1) == 0.9
    assert at([0.7], "encoder.layer.3.weight") == 0.7


def test_the_first_filter_that_fits_counts() -> None:
    value = [{"filter": "attention", "value": 0.3}, {"filter": "output", "value": [0.0, 1.0]}, {"value": 0.6}]
    assert at(value, "encoder.layer.2.attention.output.dense.weight") == 0.3
    assert at(value, "encoder.layer.3.output.dense.weight", 7) == pytest.approx(0.5)
    assert at(value, "embeddings.weight") == 0.6
    assert at([{"filter": "*", "value": 0.4}, {"filter": "attention", "value": 9}], "x.attention") == 0.4
    assert at({"filter": "attention", "value": 0.4}, "embeddings.weight") == 1.0  # none fits: the default


def test_a_models_own_value_goes_before_the_recipes() -> None:
    settings = merge_settings("ties", {"weight": 0.5, "density": 0.4}, [("a", {"weight": [{"filter": "mlp", "value": 2.0}]}), ("b", {"density": 0.1})])
    a, b = settings.models
    assert a.weight.at("mlp", 1) == 2.0
    assert a.weight.at("attention", 1) == b.weight.at("mlp", 1) == 0.5
    assert a.density.at("mlp", 1) == 0.4
    assert b.density.at("mlp", 1) == 0.1


def test_levels_of_parameters() -> None:
    assert layered({"a": 1}, {"a": 2, "b": 3}) == {"a": 1, "b": 3}
    first = {"filter": "mlp", "value": 1}
    assert layered({"a": [first]}, {"a": [0, 1]}) == {"a": [first, {"value": [0, 1]}]}
    assert layered({"a": first}, {"a": {"filter": "x", "value": 2}}, {"a": 3}) == {"a": [first, {"filter": "x", "value": 2}, {"value": 3}]}
    assert layered({"a": [0, 1]}, {"a": [first]}) == {"a": [0, 1]}  # a gradient holds everywhere
    assert layered({}, {}) == {}


@pytest.mark.parametrize(
    "value", ["0.5", True, float("nan"), float("inf"), [], ["a"], [[1]], {}, [{"filter": "a"}], {"value": 1, "filtre": "a"}, {"value": 1, "filter": 3}]
)
def test_other_values_are_refused(value: Any) -> None:
    with pytest.raises(RecipeError, match=r"^weight of a"):
        merge_settings("linear", {}, [("a", {"weight": value})])


@pytest.mark.parametrize(
    ("rule", "parameters", "own", "message"),
    [
        ("tise", {}, {}, "merge_method is 'tise'.*did you mean 'ties'"),
        ("ties", {"lamda": 1}, {}, "parameters: 'lamda' is unknown.*did you mean 'lambda'"),
        ("ties", {}, {"wieght": 1}, "parameters of a: 'wieght' is unknown.*did you mean 'weight'"),
        ("ties", {}, {"density": 1.5}, "density of a is 1.5, expected a share from 0 to 1"),
        ("ties", {}, {"weight": -1}, "weight of a is -1.0, expected 0 or more"),
        ("ties", {"normalize": "yes"}, {}, "normalize is 'yes', expected true or false"),
    ],
)
def test_mistakes_are_named(rule: str, parameters: dict[str, Any], own: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=message):
        merge_settings(rule, parameters, [("a", own)])


def test_a_merge_of_nothing_is_refused() -> None:
    with pytest.raises(RecipeError, match="models is empty"):
        merge_settings("linear", {}, [])


def test_what_a_rule_does_not_read_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        merge_settings("linear", {"lambda": 0.5, "int8_mask": True}, [("a", {"density": 0.5})])
    assert [record.message for record in caplog.records] == ["linear: lambda has no effect", "linear: density has no effect"]
