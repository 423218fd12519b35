"""Parameters of rules: scalars, gradients, filters, levels, and mistakes."""

import logging
import re
from typing import Any

import pytest

from epmq_export.errors import RecipeError
from epmq_export.merging.names import Layers
from epmq_export.merging.parameters import Level, parameter
from epmq_export.merging.registry import RULES
from tests import ROOT
from tests.tiny.merges import settings_of

REFERENCE = ROOT / "docs/recipe.md"


def at(value: Any, tensor: str = "encoder.layer.2.output.weight", layers: int = 6) -> float:
    level = Level({} if value is None else {"weight": value})
    return parameter("weight", "weight", [level], 1.0).at(
        tensor, Layers({"encoder.layer": layers}).share(tensor)
    )


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
    settings = settings_of(
        "ties",
        {"weight": 0.5, "density": 0.4},
        [("a", {"weight": [{"filter": "mlp", "value": 2.0}]}), ("b", {"density": 0.1})],
    )
    a, b = (model.numbers for model in settings.models)
    assert a["weight"].at("mlp", 1) == 2.0
    assert a["weight"].at("attention", 1) == b["weight"].at("mlp", 1) == 0.5
    assert a["density"].at("mlp", 1) == 0.4
    assert b["density"].at("mlp", 1) == 0.1


def test_flags_may_have_filters() -> None:
    normalize = settings_of("ties", {"normalize": [{"filter": "mlp", "value": False}]}, [("a", {})]).numbers[
        "normalize"
    ]
    assert (normalize.at("x.mlp", 1), normalize.at("x.attention", 1)) == (0, 1)
    assert settings_of("ties", {"normalize": 0}, [("a", {})]).numbers["normalize"].at("x", 1) == 0


def test_values_that_no_tensor_can_reach_are_not_judged() -> None:
    assert settings_of("ties", {"normalize": False}, [("a", {"weight": -1})]).numbers["normalize"].values == [
        0
    ]
    own = [{"filter": "mlp", "value": 0.1}, {"value": 0.2}, {"filter": "attention", "value": 7}]
    assert settings_of("ties", {"density": 7}, [("a", {"density": own})]).models[0].numbers[
        "density"
    ].values == [0.1, 0.2]
    with pytest.raises(RecipeError, match="weight of a is -1, expected 0 or more"):
        settings_of("ties", {"normalize": [{"filter": "mlp", "value": False}]}, [("a", {"weight": -1})])


def entries(*settings: Any) -> list[tuple[str, tuple[float, ...], int]]:
    """The entries that settings of levels make: filter, numbers, and which level says so; the default is
    9.
    """
    levels = [
        Level({} if setting is None else {"a": setting}, (index,)) for index, setting in enumerate(settings)
    ]
    return [
        (entry.filter, entry.gradient, int(entry.key[0])) for entry in parameter("a", "a", levels, 9).entries
    ]


def test_levels_of_parameters() -> None:
    first = {"filter": "mlp", "value": 1}
    assert entries(1, 2) == [("", (1.0,), 0)]
    assert entries(None, 3) == [("", (3.0,), 1)]
    assert entries([first], [0, 1]) == [("mlp", (1.0,), 0), ("", (0.0, 1.0), 1)]
    assert entries(first, {"filter": "x", "value": 2}, 3) == [
        ("mlp", (1.0,), 0),
        ("x", (2.0,), 1),
        ("", (3.0,), 2),
    ]
    assert entries([0, 1], [first]) == [("", (0.0, 1.0), 0)]  # a gradient holds everywhere
    assert entries(None, None) == [("", (9.0,), 1)]


@pytest.mark.parametrize(
    "value",
    [
        "0.5",
        True,
        float("nan"),
        float("inf"),
        10**400,
        [],
        ["a"],
        [[1]],
        {},
        [{"filter": "a"}],
        {"value": 1, "filtre": "a"},
        {"value": 1, "filter": 3},
    ],
)
def test_other_values_are_refused(value: Any) -> None:
    with pytest.raises(RecipeError, match=r"^models\[0\]\.parameters\.weight: weight of a "):
        settings_of("linear", {}, [("a", {"weight": value})])


@pytest.mark.parametrize(
    ("rule", "parameters", "own", "message"),
    [
        ("tise", {}, {}, "merge_method: found 'tise'.*did you mean 'ties'"),
        (
            "ties",
            {"lamda": 1},
            {},
            "parameters.lamda: found a parameter that ties does not have.*did you mean 'lambda'",
        ),
        (
            "ties",
            {},
            {"wieght": 1},
            r"models\[0\]\.parameters\.wieght: found a parameter that .*did you mean 'weight'",
        ),
        (
            "ties",
            {},
            {"density": 1.5},
            r"models\[0\]\.parameters\.density: density of a is 1.5, expected a share from 0 to 1",
        ),
        (
            "ties",
            {},
            {"weight": -1},
            r"models\[0\]\.parameters\.weight: weight of a is -1, expected 0 or more",
        ),
        (
            "ties",
            {"normalize": "yes"},
            {},
            "parameters.normalize: normalize is 'yes', expected true or false",
        ),
        (
            "ties",
            {"normalize": [0, 1]},
            {},
            r"parameters.normalize: normalize is \[0, 1\], expected true or false",
        ),
        (
            "ties",
            {},
            {"density": [0.5, -0.5]},
            r"models\[0\]\.parameters\.density: density of a is -0.5, expected a share from 0 to 1",
        ),
        (
            "dare_ties",
            {},
            {},
            "parameters.density: density of a is missing, expected a number: it has no default",
        ),
        (
            "dare_ties",
            {},
            {"density": [{"filter": "mlp", "value": 1}]},
            r"models\[0\]\.parameters\.density: density of a is missing for some tensors, expected a number",
        ),
        (
            "dare_ties",
            {"density": 0.5, "seed": 1.5},
            {},
            "parameters.seed: seed is 1.5, expected a whole number of at least 0",
        ),
        (
            "dare_ties",
            {"density": 0.5},
            {"weight": -1},
            (
                r"models\[0\]\.parameters\.weight: weight of a is -1, expected 0 or more: dare_ties "
                r"divides by "
                r"the weights that agree"
            ),
        ),
        (
            "della",
            {"density": 0.5, "epsilon": 0.7},
            {},
            "parameters.epsilon: epsilon of a is 0.7, expected a number from 0 to 0.5",
        ),
        (
            "dare_linear",
            {"densty": 0.5},
            {},
            (
                "parameters.densty: found a parameter that dare_linear does not have, expected one of "
                ".*did you "
                "mean 'density'"
            ),
        ),
    ],
)
def test_mistakes_are_named(rule: str, parameters: dict[str, Any], own: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=f"^{message}"):
        settings_of(rule, parameters, [("a", own)])


def test_what_another_rule_reads_is_said_to_have_no_effect(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        settings_of("linear", {"lambda": 0.5, "int8_mask": True}, [("a", {"density": 0.5})])
        settings_of("ties", {}, [("a", {"lambda": 0.5})])
    assert [record.message for record in caplog.records] == [
        "parameters: lambda has no effect on linear",
        "parameters of a: density has no effect on linear",
        "parameters of a: lambda has no effect on ties",
    ]


def test_a_convention_brings_its_defaults() -> None:
    def defaults(rule: str, convention: str, own: dict[str, Any]) -> tuple[float, ...]:
        settings = settings_of(rule, {}, [("a", own)], convention)
        return (
            settings.numbers["lambda"].values[0],
            settings.numbers["normalize"].values[0],
            settings.models[0].numbers["density"].values[-1],
        )

    assert defaults("ties", "paper", {}) == (1.0, 1.0, 0.2)
    assert defaults("ties", "mergekit", {}) == (1.0, 1.0, 1.0)
    assert defaults("dare_ties", "paper", {"density": 0.5}) == (1.0, 1.0, 0.5)
    assert defaults("dare_ties", "mergekit", {}) == (1.0, 0.0, 1.0)
    assert defaults("dare_linear", "paper", {"density": 0.5}) == (0.3, 0.0, 0.5)
    assert defaults("dare_linear", "paper", {"density": 0.5, "weight": 1}) == (1.0, 0.0, 0.5)
    assert defaults("dare_linear", "mergekit", {}) == (1.0, 0.0, 1.0)
    with pytest.raises(
        RecipeError,
        match="found 'mergkit', expected one of paper, mergekit, did you mean 'mergekit'",
    ):
        settings_of("ties", {}, [("a", {})], "mergkit")


def test_the_reference_names_every_rule_with_its_parameters_and_their_defaults() -> None:
    rows = [line.strip("| ").split(" | ") for line in REFERENCE.read_text(encoding="utf-8").splitlines()]
    documented = {
        row[0]: [re.findall(r"`(\w+)`( [\w.-]+)?", cell) for cell in row[1:3]]
        for row in rows
        if row[0] in RULES and len(row) == 4
    }
    assert list(documented) == list(RULES)
    for rule, cells in documented.items():
        for by_model, cell in zip((True, False), cells, strict=True):
            declared = {
                name: number for name, number in RULES[rule].parameters.items() if number.by_model == by_model
            }
            assert {name for name, _ in cell} == set(declared), rule
            for name, default in cell:
                number = declared[name].default
                assert default.strip() == (
                    ""
                    if number is None
                    else str(bool(number)).lower()
                    if declared[name].flag
                    else f"{number:g}"
                ), (rule, name)
