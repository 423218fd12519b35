"""NearSwap against a slow float64 reference, as it is published."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from epmq_export.errors import SettingError
from tests.tiny.merges import NUMBERS, SHAPES, SIZE, Vector, joined, merge, model, tensors, values


def reference_nearswap(base: Vector, expert: Vector, t: float) -> Vector:
    """Return the base's numbers, each drawn to the expert's the more the nearer they are."""
    distance = np.abs(expert - base)
    share = np.ones_like(distance)
    np.divide(t, distance, out=share, where=distance > 0)
    share = np.minimum(share, 1.0)
    return np.asarray((1 - share) * base + share * expert)


@settings(max_examples=60)
@given(NUMBERS, NUMBERS, st.sampled_from([0.0, 0.25, 1.0, 3.0]))
def test_nearswap(a: list[int], b: list[int], t: float) -> None:
    base, expert = tensors(model(a)), tensors(model(b))
    expected = joined({name: reference_nearswap(base[name], expert[name], t) for name in SHAPES})
    found = values(merge("nearswap", model(a), [model(b)], {"t": t}))
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-6)


def test_what_is_near_is_the_experts_and_what_is_far_moves_by_t() -> None:
    base, expert = ({"layer.0.weight": torch.tensor(each)} for each in ([1.0, 1.0, 1.0], [1.25, 3.0, -3.0]))
    merged = merge("nearswap", base, [expert], {"t": 0.5})
    assert merged.load("layer.0.weight").tolist() == [1.25, 1.5, 0.5]


@pytest.mark.parametrize(
    ("experts", "numbers", "sentence"),
    [
        (1, {"t": -0.1}, "t is -0.1, expected a number of at least 0"),
        (2, {"t": 0.1}, "found 2 experts, expected 1 for nearswap"),
    ],
)
def test_refusals(experts: int, numbers: dict[str, float], sentence: str) -> None:
    one = model([1] * SIZE)
    with pytest.raises(SettingError) as caught:
        merge("nearswap", one, [one] * experts, numbers)
    assert sentence in str(caught.value)
