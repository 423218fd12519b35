"""Each rule against a slow float64 reference, on numbers whose sums float32 holds exactly, so that every tie
is a true tie.
"""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from epmq_export.errors import InputError, RecipeError
from epmq_export.merging.merged import merged
from epmq_export.merging.registry import RULES
from tests.merging.models import (
    NUMBERS,
    SIZE,
    WEIGHTS,
    Model,
    flat,
    merge,
    model,
    needed,
    settings_of,
    values,
)
from tests.merging.sources import InMemory, LiveBytes


def reference_ties(
    base: NDArray[np.float64],
    experts: NDArray[np.float64],
    weights: Sequence[float],
    densities: Sequence[float],
    scale: float,
    normalize: bool,
) -> NDArray[np.float64]:
    trimmed = []
    for expert, weight, density in zip(experts, weights, densities, strict=True):
        vector = expert - base
        k = int(density * vector.size)
        smallest = np.sort(np.abs(vector))[::-1][k - 1] if k else np.inf
        trimmed.append(weight * np.where(np.abs(vector) >= smallest, vector, 0))
    elected = np.sign(np.sum(trimmed, 0))
    elected[elected == 0] = np.sign(elected.sum())
    result = base.copy()
    for place in range(base.size):
        agreeing = [
            (v[place], w)
            for v, w in zip(trimmed, weights, strict=True)
            if v[place] != 0 and np.sign(v[place]) == elected[place]
        ]
        if agreeing:
            result[place] += (
                scale * sum(v for v, _ in agreeing) / (sum(w for _, w in agreeing) if normalize else 1)
            )
    return result


@st.composite
def merges(draw: st.DrawFn) -> tuple[Model, list[Model], list[float]]:
    base = draw(NUMBERS)
    count = draw(st.integers(1, 4))
    kinds = st.one_of(
        NUMBERS, st.just(base), st.just([2 * number for number in base]), st.just([0] * SIZE)
    )  # base, base: all task vectors zero
    experts = [draw(kinds) for _ in range(count)]
    return model(base), [model(expert) for expert in experts], [draw(WEIGHTS) for _ in range(count)]


@settings(max_examples=60, deadline=None)
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


@settings(max_examples=60, deadline=None)
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


@settings(max_examples=150, deadline=None)
@given(
    merges(),
    st.booleans(),
    st.sampled_from([0.5, 1.0]),
    st.lists(st.sampled_from([0, 0.1, 0.2, 0.5, 0.9, 1]), min_size=4, max_size=4),
)
def test_ties_trims_elects_and_averages(
    case: tuple[Model, list[Model], list[float]], normalize: bool, scale: float, densities: list[float]
) -> None:
    base, experts, weights = case
    densities = densities[: len(experts)]
    own = [{"weight": w, "density": d} for w, d in zip(weights, densities, strict=True)]
    got = values(merge("ties", base, experts, {"normalize": normalize, "lambda": scale}, own))
    expected = reference_ties(
        flat(base), np.stack([flat(expert) for expert in experts]), weights, densities, scale, normalize
    )
    np.testing.assert_allclose(got, expected, rtol=1e-6, atol=1e-6)


def test_ties_on_random_models_with_the_papers_defaults() -> None:
    generator = torch.Generator().manual_seed(3)
    base, *experts = (model((torch.randn(SIZE, generator=generator) * 64).round().tolist()) for _ in range(4))
    expected = reference_ties(
        flat(base), np.stack([flat(expert) for expert in experts]), [1, 1, 1], [0.2, 0.2, 0.2], 1.0, True
    )
    np.testing.assert_allclose(
        values(merge("ties", base, experts, {}, [{}, {}, {}])), expected, rtol=1e-6, atol=1e-6
    )
    assert not np.allclose(expected, flat(base))


def test_entries_that_cancel_take_the_majority_over_all_parameters() -> None:
    base = model([0.0] * SIZE)
    up, down = [1.0] * SIZE, [1.0] * SIZE
    down[0] = -1.0  # cancels at one entry; everywhere else both are positive
    got = values(merge("ties", base, [model(up), model(down)], {"density": 1.0}, [{}, {}]))
    np.testing.assert_array_equal(got, np.full(SIZE, 0.125))


def test_trimming_is_over_all_parameters_not_by_tensor() -> None:
    numbers = [0.0] * SIZE
    numbers[:15] = [float(number) for number in range(51, 66)]  # one tensor holds all the large entries
    numbers[15:] = [1.0] * (SIZE - 15)
    got = merge("ties", model([0.0] * SIZE), [model(numbers)], {"density": 15 / SIZE}, [{}])
    assert torch.equal(got.load("embeddings.weight"), model(numbers)["embeddings.weight"])
    assert not got.load("encoder.layer.0.weight").any()


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


@pytest.mark.parametrize("rule", list(RULES))
def test_integers_are_the_bases_and_dtypes_are_kept_or_set(rule: str) -> None:
    base = {**model([1.0] * SIZE, torch.bfloat16), "position_ids": torch.arange(3)}
    expert = InMemory({**model([2.0] * SIZE, torch.float16), "position_ids": torch.arange(3) + 1})
    count = RULES[rule].experts[0]
    chosen = settings_of(rule, needed(rule), [(f"expert {index}", {}) for index in range(count)])
    got = merged(InMemory(base), [expert] * count, chosen)
    assert torch.equal(got.load("position_ids"), torch.arange(3))
    assert got.load("scalar").dtype == got.dtype("scalar") == torch.bfloat16
    cast = merged(InMemory(base), [expert] * count, chosen, torch.float32)
    assert cast.load("scalar").dtype == cast.dtype("scalar") == torch.float32
    assert cast.dtype("position_ids") == torch.int64
    assert list(got.names()) == sorted(base) and got.shape("embeddings.weight") == (5, 3)


@pytest.mark.parametrize("rule", [rule for rule in RULES if RULES[rule].experts[1] is None])
def test_memory_grows_neither_with_experts_nor_with_depth(rule: str) -> None:
    side = 64

    def peak(experts: int, depth: int) -> int:
        generator = torch.Generator().manual_seed(0)
        base, *others = (
            InMemory(
                {f"layer.{i}.weight": torch.randn(side, side, generator=generator) for i in range(depth)}
            )
            for _ in range(experts + 1)
        )
        source = merged(
            base, others, settings_of(rule, needed(rule), [(str(index), {}) for index in range(experts)])
        )
        with LiveBytes() as gauge:
            for name in source.names():
                source.load(name)
        return gauge.peak

    tensor = 4 * side * side
    histograms = 4 * 8 * (1 << 16)  # the counts of a threshold's search, whatever the model's size
    few = peak(2, 2)
    assert few >= 3 * tensor
    assert few <= 16 * tensor + (histograms if rule == "ties" else 0)
    assert abs(peak(9, 2) - few) <= tensor
    assert abs(peak(2, 9) - few) <= tensor


@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_number_that_is_not_finite_is_refused_with_its_tensor(rule: str, bad: float) -> None:
    base, expert = model([1.0] * SIZE), model([2.0] * SIZE)
    expert["encoder.layer.1.bias"][2] = bad
    others = [model([3.0] * SIZE)] * (RULES[rule].experts[0] - 1)
    with pytest.raises(InputError, match=r"expert 0: tensor encoder\.layer\.1\.bias has 1 values"):
        merge(rule, base, [expert, *others]).load("encoder.layer.1.bias")


def test_a_result_beyond_its_dtype_is_refused() -> None:
    base, expert = model([0.0] * SIZE, torch.float16), model([8.0 * 60000] * SIZE)
    source = merge("task_arithmetic", base, [expert], {"lambda": 2}, [{}])
    with pytest.raises(RecipeError, match="scalar has values beyond float16"):
        source.load("scalar")


def test_weights_that_sum_to_nothing_are_refused() -> None:
    base, expert = model([0.0] * SIZE), model([1.0] * SIZE)
    with pytest.raises(RecipeError, match="sum to 0"):
        merge("linear", base, [expert, expert], {}, [{"weight": 1}, {"weight": -1}]).load("scalar")


def test_too_few_or_too_many_experts_are_refused() -> None:
    with pytest.raises(RecipeError, match="models is empty"):
        settings_of("linear", {}, [])
    for rule, parts in RULES.items():
        fewest, most = parts.experts
        for count in {fewest - 1, (most or fewest) + 1}:
            if count and (count < fewest or count > (most or count)):
                with pytest.raises(
                    RecipeError, match=f"models has {count} experts, expected .*{fewest}.* for {rule}"
                ):
                    settings_of(rule, needed(rule), [(str(index), {}) for index in range(count)])


def test_an_expert_of_another_shape_is_refused_before_anything_is_read() -> None:
    expert = {**model([1.0] * SIZE), "encoder.layer.1.bias": torch.zeros(8)}
    with pytest.raises(
        InputError,
        match=(
            r"expert 0 does not fit the base: encoder\.layer\.1\.bias has shape \[8\], the base's "
            r"has \[7\]"
        ),
    ):
        merge("linear", model([1.0] * SIZE), [expert], {}, [{}])


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("shape", [(0,), (0, 3), (3, 0)])
def test_a_tensor_without_entries_stays_one(rule: str, shape: tuple[int, ...]) -> None:
    models = [{"layer.0.weight": torch.ones(2, 2), "empty": torch.ones(shape)}] * 2
    count = 1 if rule == "passthrough" else 2
    assert merge(rule, models[0], models[:count]).load("empty").shape == shape
