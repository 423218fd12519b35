"""Model Stock against a slow float64 reference."""

import logging
import math
from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tiny.merges import NUMBERS, SHAPES, Vector, joined, merge, model, tensors, values

SETTINGS = settings(max_examples=60)


def reference_stock(base: Vector, experts: Sequence[Vector], row: int, floor: float) -> Vector:
    result = base.copy()
    for start in range(0, base.size, row):
        offsets = [(expert - base)[start : start + row] for expert in experts]
        pairs = [(a, b) for index, a in enumerate(offsets) for b in offsets[index + 1 :]]
        cosines = []
        for a, b in pairs:
            product = max(float(np.linalg.norm(a) * np.linalg.norm(b)), floor)
            cosines.append(float(a @ b) / product if product else 0.0)
        cosine, count = sum(cosines) / len(cosines), len(offsets)
        if abs(1 + (count - 1) * cosine) > 1e-6:
            result[start : start + row] += (
                count * cosine / (1 + (count - 1) * cosine) * np.mean(offsets, axis=0)
            )
    return result


@SETTINGS
@given(st.lists(NUMBERS, min_size=3, max_size=5), st.booleans())
def test_model_stock(numbers: list[list[int]], by_row: bool) -> None:
    base, *experts = (model(each) for each in numbers)
    pieces = {}
    for name, shape in SHAPES.items():
        row = shape[-1] if by_row and len(shape) > 1 else math.prod(shape)
        pieces[name] = reference_stock(
            tensors(base)[name], [tensors(expert)[name] for expert in experts], row, 0.0
        )
    got = values(merge("model_stock", base, experts, {"filter_wise": by_row}))
    np.testing.assert_allclose(got, joined(pieces), rtol=1e-4, atol=1e-5)


def test_model_stock_goes_all_the_way_where_experts_are_equal_and_stays_where_they_share_nothing() -> None:
    base = {"layer.0.weight": torch.tensor([[1.0, 1.0]])}
    one, other = ({"layer.0.weight": torch.tensor([value])} for value in ([2.0, 1.0], [1.0, 3.0]))
    assert merge("model_stock", base, [one, one, one]).load("layer.0.weight").tolist() == [[2.0, 1.0]]
    assert merge("model_stock", base, [one, other]).load("layer.0.weight").tolist() == [[1.0, 1.0]]


def test_mergekits_model_stock_takes_short_task_vectors_for_unrelated() -> None:
    base = {"layer.0.weight": torch.zeros(4)}
    short = {"layer.0.weight": torch.full((4,), 5e-5)}  # the product of two lengths is 1e-8
    assert merge("model_stock", base, [short, short]).load("layer.0.weight").tolist() == pytest.approx(
        [5e-5] * 4
    )
    expected = reference_stock(np.zeros(4), [np.full(4, 5e-5)] * 2, 4, 1e-6)
    assert expected[0] == pytest.approx(1e-6, rel=0.02)
    assert merge("model_stock", base, [short, short], convention="mergekit").load(
        "layer.0.weight"
    ).tolist() == pytest.approx(expected.tolist())


def test_model_stock_keeps_the_base_where_experts_point_against_each_other_and_says_so(
    caplog: pytest.LogCaptureFixture,
) -> None:
    base = {"layer.0.weight": torch.tensor([1.0, 1.0])}
    up, down = ({"layer.0.weight": torch.tensor(value)} for value in ([2.0, 1.0], [-3.0, 1.0]))
    with caplog.at_level(logging.WARNING):
        assert merge("model_stock", base, [up, down]).load("layer.0.weight").tolist() == [1.0, 1.0]
    assert [record.message for record in caplog.records] == [
        "model_stock: in layer.0.weight the task vectors point against each other; the base is kept"
    ]
