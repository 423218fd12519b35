"""Task arithmetic against a float64 reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny.merges import SIZE, Model, flat, merge, merges, model, values


@settings(max_examples=60)
@given(merges(), st.booleans(), st.sampled_from([0.25, 1.0, 2.5]))
def test_task_arithmetic_adds_weighted_task_vectors(
    case: tuple[Model, list[Model], list[float]], normalize: bool, scale: float
) -> None:
    base, experts, weights = case
    vectors = sum(w * (flat(expert) - flat(base)) for w, expert in zip(weights, experts, strict=True)) / (
        sum(weights) if normalize else 1
    )
    got = values(
        merge(
            "task_arithmetic",
            base,
            experts,
            {"normalize": normalize, "lambda": scale},
            [{"weight": w} for w in weights],
        )
    )
    np.testing.assert_allclose(got, flat(base) + scale * vectors, rtol=1e-6, atol=1e-6)


def test_defaults_are_the_papers_until_weights_are_given() -> None:
    base, expert = model([0.0] * SIZE), model([8.0] * SIZE)
    assert float(
        merge("task_arithmetic", base, [expert, expert], {}, [{}, {}]).load("scalar")
    ) == pytest.approx(0.6)
    assert (
        float(
            merge("task_arithmetic", base, [expert, expert], {}, [{"weight": 0.5}, {"weight": 0.25}]).load(
                "scalar"
            )
        )
        == 0.75
    )
    assert (
        float(merge("task_arithmetic", base, [expert, expert], {"weight": 0.5}, [{}, {}]).load("scalar"))
        == 1.0
    )
    assert (
        float(merge("task_arithmetic", base, [expert], {"lambda": 2}, [{"weight": 0.5}]).load("scalar"))
        == 1.0
    )


def test_a_weight_by_layer_and_by_name() -> None:
    base, expert = model([0.0] * SIZE), model([8.0] * SIZE)
    got = merge(
        "task_arithmetic",
        base,
        [expert],
        {},
        [{"weight": [{"filter": "embeddings", "value": 3.0}, {"value": [0.0, 1.0]}]}],
    )
    assert got.load("embeddings.weight").unique().tolist() == [3.0]
    assert got.load("encoder.layer.0.weight").unique().tolist() == [0.0]
    assert got.load("encoder.layer.1.bias").unique().tolist() == [1.0]
