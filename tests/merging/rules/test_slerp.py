"""SLERP against a slow float64 reference."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny.merges import NUMBERS, SHAPES, SIZE, Vector, joined, merge, model, tensors, values

SETTINGS = settings(max_examples=60)


def reference_slerp(first: Vector, second: Vector, t: float) -> Vector:
    lengths = np.linalg.norm(first), np.linalg.norm(second)
    cosine = float(first @ second / (lengths[0] * lengths[1])) if all(lengths) else 0.0
    if abs(cosine) > 0.9995:
        return (1 - t) * first + t * second
    angle = np.arccos(cosine)
    return np.asarray((np.sin((1 - t) * angle) * first + np.sin(t * angle) * second) / np.sin(angle))


@SETTINGS
@given(NUMBERS, NUMBERS, st.sampled_from([0.0, 0.3, 1.0, 1.5]))
def test_slerp(a: list[int], b: list[int], t: float) -> None:
    first, second = tensors(model(a)), tensors(model(b))
    expected = joined({name: reference_slerp(first[name], second[name], t) for name in SHAPES})
    np.testing.assert_allclose(
        values(merge("slerp", model(a), [model(b)], {"t": t})), expected, rtol=1e-5, atol=1e-6
    )
    np.testing.assert_allclose(
        values(merge("slerp", model([9] * SIZE), [model(a), model(b)], {"t": t})),
        expected,
        rtol=1e-5,
        atol=1e-6,
    )


def test_slerp_of_near_and_of_orthogonal_tensors() -> None:
    base = {"layer.0.weight": torch.tensor([1.0, 0.0])}
    near, away = ({"layer.0.weight": torch.tensor(value)} for value in ([1.0, 0.01], [0.0, 2.0]))
    assert merge("slerp", base, [near], {"t": 0.5}).load("layer.0.weight").tolist() == pytest.approx(
        [1.0, 0.005]
    )
    root = math.sqrt(0.5)
    assert merge("slerp", base, [away], {"t": 0.5}).load("layer.0.weight").tolist() == pytest.approx(
        [root, 2 * root]
    )


def test_slerps_t_by_layer_and_by_name() -> None:
    base, expert = model([8.0] * SIZE), model([16.0] * SIZE)
    source = merge(
        "slerp", base, [expert], {"t": [{"filter": "embeddings", "value": 0.5}, {"value": [0.0, 1.0]}]}
    )
    assert source.load("embeddings.weight").unique().tolist() == pytest.approx([1.5])
    assert torch.equal(source.load("encoder.layer.0.weight"), base["encoder.layer.0.weight"])
    assert torch.equal(source.load("encoder.layer.1.bias"), expert["encoder.layer.1.bias"])
