"""The weighted mean against a float64 reference."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from epmq_export.errors import RecipeError
from tests.tiny.merges import SIZE, Model, flat, merge, merges, model, values


@settings(max_examples=60)
@given(merges(), st.booleans())
def test_linear_is_the_weighted_mean_of_the_experts(
    case: tuple[Model, list[Model], list[float]], normalize: bool
) -> None:
    base, experts, weights = case
    expected = sum(w * flat(expert) for w, expert in zip(weights, experts, strict=True)) / (
        sum(weights) if normalize else 1
    )
    got = values(merge("linear", base, experts, {"normalize": normalize}, [{"weight": w} for w in weights]))
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-7)


def test_weights_that_sum_to_nothing_are_refused_before_anything_is_read() -> None:
    base, expert = model([0.0] * SIZE), model([1.0] * SIZE)
    with pytest.raises(RecipeError, match="sum to 0"):
        merge("linear", base, [expert, expert], {}, [{"weight": 1}, {"weight": -1}])
