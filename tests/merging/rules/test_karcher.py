"""The Karcher mean against what defines it, and against its limits."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from epmq_export.merging.merged import merged
from tests.tiny.in_memory import InMemory
from tests.tiny.merges import SIZE, flat, merge, model, settings_of, values

SETTINGS = settings(max_examples=60)


def karcher(*points: Sequence[float], **parameters: Any) -> list[float]:
    models = [InMemory({"layer.0.weight": torch.tensor(point)}) for point in points]
    names = [(f"expert {index}", {}) for index in range(len(points))]
    result: list[float] = (
        merged(models[0], models, settings_of("karcher", parameters, names)).load("layer.0.weight").tolist()
    )
    return result


def test_the_karcher_mean_of_two_halves_their_angle() -> None:
    assert karcher([1.0, 0.0], [0.0, 3.0]) == pytest.approx([math.sqrt(2), math.sqrt(2)], rel=1e-5)
    assert karcher([2.0, 0.0], [2.0, 0.0], [0.0, 0.0]) == pytest.approx([4 / 3, 0.0])
    assert karcher([0.0, 0.0], [0.0, 0.0]) == [0.0, 0.0]


@SETTINGS
@given(st.lists(st.lists(st.integers(1, 9), min_size=4, max_size=4), min_size=1, max_size=5))
def test_geodesics_from_the_karcher_mean_sum_to_zero(points: list[list[int]]) -> None:
    experts = [np.array(point, np.float64) for point in points]
    got = np.array(
        karcher(*[[float(number) for number in point] for point in points], max_iter=200, tol=1e-7)
    )
    assert np.linalg.norm(got) == pytest.approx(
        np.mean([np.linalg.norm(expert) for expert in experts]), rel=1e-5
    )
    mean = got / np.linalg.norm(got)
    pull = np.zeros(4)
    for expert in experts:
        unit = expert / np.linalg.norm(expert)
        cosine = float(np.clip(unit @ mean, -1, 1))
        across = unit - cosine * mean
        if np.linalg.norm(across) > 1e-9:
            pull += np.arccos(cosine) * across / np.linalg.norm(across)
    np.testing.assert_allclose(pull, 0, atol=1e-5)


def test_max_iter_0_is_the_normalised_mean() -> None:
    points = np.array([[1.0, 0.0, 0.0], [1.0, 0.0, 0.0], [0.0, 1.0, 0.0]])
    mean = points.mean(0) / np.linalg.norm(points.mean(0))
    assert karcher(*points.tolist(), max_iter=0) == pytest.approx(mean.tolist())
    assert karcher(*points.tolist()) != pytest.approx(mean.tolist(), abs=1e-3)


def test_directions_that_cancel_are_named(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert karcher([1.0, 0.0], [-3.0, 0.0]) == pytest.approx([2.0, 0.0])
    assert [record.message for record in caplog.records] == [
        "karcher: in layer.0.weight the models' directions cancel and have no mean; that of expert 0 is taken"
    ]


def test_karcher_without_a_tolerance(caplog: pytest.LogCaptureFixture) -> None:
    assert karcher([1.0, 0.0], [0.0, 3.0], tol=0) == pytest.approx([math.sqrt(2), math.sqrt(2)], rel=1e-5)
    assert karcher([2.0, 0.0], [2.0, 0.0], tol=0) == [2.0, 0.0]
    with caplog.at_level(logging.WARNING):
        assert karcher([1.0, 0.0], [-3.0, 0.0], tol=0) == [2.0, 0.0]
    assert "directions cancel" in caplog.records[0].message


def test_karcher_counts_the_base_only_where_it_is_listed() -> None:
    base, expert = model([8.0] * SIZE), model([16.0] * SIZE)
    np.testing.assert_allclose(values(merge("karcher", base, [expert])), flat(expert), rtol=1e-6)
