"""TIES against a slow float64 reference, on numbers whose sums float32 holds exactly, so that every tie is a
true tie.
"""

from collections.abc import Sequence

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from tests.tiny.merges import SIZE, Model, flat, merge, merges, model, values


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


@settings(max_examples=150)
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
