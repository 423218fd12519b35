"""SLERP, the Karcher mean and Model Stock against slow float64 references."""

import logging
import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from epmq_export.merging.merged import merged
from tests.merging.models import NUMBERS, SHAPES, SIZE, Model, flat, merge, model, settings_of, values
from tests.merging.sources import InMemory

Vector = NDArray[np.float64]
SETTINGS = settings(max_examples=60, deadline=None)


def tensors(tensors: Model) -> dict[str, Vector]:
    return {name: tensors[name].double().numpy().reshape(-1) for name in sorted(SHAPES)}


def joined(pieces: dict[str, Vector]) -> Vector:
    return np.concatenate([pieces[name] for name in sorted(SHAPES)])


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
