"""DARE, DELLA, breadcrumbs and mergekit's TIES against slow references, one entry at a time."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from epmq_export.errors import RecipeError
from epmq_export.merging.inputs import Inputs
from epmq_export.merging.names import Layers, count_layers
from tests.tiny.in_memory import InMemory
from tests.tiny.merges import NUMBERS, SHAPES, SIZE, Model, flat, merge, model, settings_of, values

Vector = NDArray[np.float64]
RANDOM = ["dare_linear", "dare_ties", "della", "della_linear"]
EVERY = [*RANDOM, "breadcrumbs", "breadcrumbs_ties", "ties"]
DENSITIES = st.sampled_from([0, 0.2, 0.5, 0.75, 1])


def draws(expert: int, tensor: str) -> NDArray[np.float64]:
    """Stands for the rules' random numbers, exactly representable."""
    size = math.prod(SHAPES[tensor])
    return np.random.default_rng([expert, sorted(SHAPES).index(tensor)]).integers(0, 64, size) / 64


@pytest.fixture
def known_draws(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        Inputs,
        "uniform",
        lambda self, index, tensor: torch.from_numpy(draws(index, tensor)).float().reshape(SHAPES[tensor]),
    )


@pytest.fixture
def stable_sorts(monkeypatch: pytest.MonkeyPatch) -> None:
    """Under mergekit's convention torch's own sort decides among equal magnitudes; the reference takes the
    first.
    """
    sort = torch.Tensor.argsort

    def argsort(
        tensor: torch.Tensor, dim: int = -1, descending: bool = False, stable: bool = False
    ) -> torch.Tensor:
        return sort(tensor, dim=dim, descending=descending, stable=True)

    monkeypatch.setattr(torch.Tensor, "argsort", argsort)


def by_magnitude(vector: Sequence[float]) -> list[int]:
    return sorted(range(len(vector)), key=lambda place: (abs(vector[place]), place))


def kept(
    rule: str,
    mergekit: bool,
    divide: bool,
    vector: Vector,
    shape: tuple[int, ...],
    density: float,
    epsilon: float,
    gamma: float,
    random: Vector,
) -> Vector:
    """One tensor's task vector, thinned out; `divide` by what was the probability of being kept."""
    size = len(vector)
    result = np.zeros(size)
    if rule.startswith("dare"):
        for place in range(size):
            if random[place] < density:
                result[place] = vector[place] / density if divide else vector[place]
    elif rule.startswith("della"):
        width = shape[-1] if len(shape) > 1 else size
        for start in range(0, size, width):
            for rank, place in enumerate(by_magnitude(vector[start : start + width])):
                share = (
                    density - epsilon + 2 * epsilon * rank / (width - 1)
                    if width > 1 and density < 1
                    else density
                )
                if random[start + place] < share and density > 0:
                    result[start + place] = vector[start + place] / share if divide else vector[start + place]
    elif rule.startswith("breadcrumbs"):
        largest = min(int(gamma * size), size - int(density * size))
        order = by_magnitude(vector)[: size - largest]
        for place in order[len(order) - int(density * size) :] if density else []:
            result[place] = vector[place]
    else:
        descending = sorted(range(size), key=lambda place: (-abs(vector[place]), place))
        for place in descending[: int(density * size)]:
            result[place] = vector[place]
    return result


def combined(rule: str, mergekit: bool, vectors: Vector, weights: Sequence[float], normalize: bool) -> Vector:
    """What `lambda` multiplies, of thinned vectors [experts, entries]."""
    weighted = vectors * np.array(weights)[:, None]
    total = weighted.sum(0)
    if rule in ("dare_linear", "della_linear", "breadcrumbs"):
        return total / sum(weights) if normalize else total
    sign = np.sign(total)
    sign[sign == 0] = 1 if mergekit else np.sign(sign.sum())
    result = np.zeros(total.size)
    for place in range(total.size):
        agreeing = [
            index
            for index in range(len(weights))
            if weighted[index, place] and np.sign(weighted[index, place]) == sign[place]
        ]
        if agreeing:
            result[place] = sum(weighted[agreeing, place]) / (
                sum(weights[index] for index in agreeing) if normalize else 1
            )
    return result


def reference(
    rule: str,
    mergekit: bool,
    base: Model,
    experts: Sequence[Model],
    own: Sequence[dict[str, float]],
    rescale: bool,
    normalize: bool,
) -> Vector:
    thinned = []
    for index, (expert, numbers) in enumerate(zip(experts, own, strict=True)):
        pieces = []
        for name in sorted(SHAPES):
            vector = (expert[name].double() - base[name].double()).numpy().reshape(-1)
            density, epsilon, gamma = numbers["density"], numbers.get("epsilon", 0), numbers.get("gamma", 0)
            divide = rescale and rule in RANDOM and not mergekit
            piece = kept(
                rule, mergekit, divide, vector, SHAPES[name], density, epsilon, gamma, draws(index, name)
            )
            if rescale and not divide and np.abs(piece).sum() > 0:
                piece = piece * np.abs(vector).sum() / np.abs(piece).sum()
            pieces.append(piece)
        thinned.append(np.concatenate(pieces))
    return flat(base) + 0.5 * combined(
        rule, mergekit, np.stack(thinned), [numbers["weight"] for numbers in own], normalize
    )


@pytest.mark.parametrize("rule", EVERY)
@pytest.mark.parametrize("convention", ["paper", "mergekit"])
@pytest.mark.usefixtures("known_draws", "stable_sorts")
def test_it_is_the_slow_reference(rule: str, convention: str) -> None:
    if rule == "ties" and convention == "paper":
        return  # over all parameters: test_rules has it

    @settings(max_examples=25)
    @given(st.lists(NUMBERS, min_size=2, max_size=4), st.data(), st.booleans(), st.booleans())
    def check(numbers: list[list[int]], data: st.DataObject, rescale: bool, normalize: bool) -> None:
        base, *experts = (model(each) for each in numbers)
        own: list[dict[str, float]] = []
        for _ in experts:
            mine = {
                "weight": data.draw(st.sampled_from([0.25, 0.5, 1.0, 2.0])),
                "density": data.draw(DENSITIES),
            }
            if rule.startswith("della"):
                mine["epsilon"] = data.draw(st.sampled_from([0, 0.125]))
            if rule.startswith("breadcrumbs"):
                mine["gamma"] = data.draw(st.sampled_from([0, 0.2, 0.5]))
            own.append(mine)
        got = values(
            merge(
                rule,
                base,
                experts,
                {"lambda": 0.5, "rescale": rescale, "normalize": normalize},
                own,
                convention,
            )
        )
        assert np.isfinite(got).all()
        np.testing.assert_allclose(
            got,
            reference(rule, convention == "mergekit", base, experts, own, rescale, normalize),
            rtol=1e-5,
            atol=1e-6,
        )

    check()


@pytest.mark.parametrize("rule", RANDOM)
@pytest.mark.parametrize("convention", ["paper", "mergekit"])
def test_density_1_is_everything_and_density_0_nothing(rule: str, convention: str) -> None:
    base, expert = model([1.0] * SIZE), model([float(number) for number in range(SIZE)])
    everything = merge(rule, base, [expert], {"density": 1.0, "lambda": 1.0}, convention=convention)
    np.testing.assert_array_equal(values(everything), flat(expert))
    nothing = merge(rule, base, [expert], {"density": 0.0, "lambda": 1.0}, convention=convention)
    np.testing.assert_array_equal(values(nothing), flat(base))


def wide(scale: float = 1.0) -> Model:
    """A model of 60,000 entries in one matrix, for statistics."""
    generator = torch.Generator().manual_seed(7)
    return {"layer.0.weight": torch.randn(200, 300, generator=generator) * scale}


@pytest.mark.parametrize("rule", RANDOM)
def test_the_expectation_is_the_task_vector(rule: str) -> None:
    base, expert = wide(0.0), wide()
    result = torch.stack(
        [
            merge(rule, base, [expert], {"density": 0.5, "lambda": 1.0, "seed": seed}).load("layer.0.weight")
            for seed in range(60)
        ]
    )
    vector = expert["layer.0.weight"]
    assert float((result != 0).float().mean()) == pytest.approx(0.5, abs=0.01)
    assert float((result.mean(0) * vector).sum() / (vector * vector).sum()) == pytest.approx(1.0, abs=0.01)


def test_della_spares_what_is_large_in_its_row() -> None:
    base, expert = wide(0.0), wide()
    result = merge("della", base, [expert], {"density": 0.5, "epsilon": 0.4}).load("layer.0.weight") != 0
    largest = expert["layer.0.weight"].abs().argsort(dim=1)[:, -30:]
    smallest = expert["layer.0.weight"].abs().argsort(dim=1)[:, :30]
    assert float(result.gather(1, largest).float().mean()) == pytest.approx(0.86, abs=0.02)
    assert float(result.gather(1, smallest).float().mean()) == pytest.approx(0.14, abs=0.02)


@pytest.mark.parametrize("rule", RANDOM)
def test_what_is_dropped_depends_on_seed_expert_and_tensor_only(rule: str) -> None:
    numbers = [float(number) for number in range(1, SIZE + 1)]
    base, a, b = model([0.0] * SIZE), model(numbers), model([number * 2 for number in numbers])
    shape = {"embeddings.weight", "encoder.layer.0.weight"}

    def load(order: Sequence[str], experts: Sequence[Model], **parameters: Any) -> dict[str, torch.Tensor]:
        source = merge(
            rule,
            base,
            experts,
            {"density": 0.5, "epsilon": 0.1, **parameters}
            if rule.startswith("della")
            else {"density": 0.5, **parameters},
        )
        return {name: source.load(name) for name in order}

    first = load(sorted(shape), [a, b])
    again = load([*sorted(shape, reverse=True), *sorted(shape)], [a, b])
    assert all(torch.equal(first[name], again[name]) for name in shape)
    assert any(
        not torch.equal(first[name], other) for name, other in load(sorted(shape), [a, b], seed=1).items()
    )
    square = merge(rule, wide(0.0), [wide(), wide()], {"density": 0.5}).load("layer.0.weight")
    alone = merge(rule, wide(0.0), [wide()], {"density": 0.5}).load("layer.0.weight")
    assert not torch.equal(square != 0, alone != 0)  # the second expert's mask is its own


def test_the_drawn_numbers_are_the_same_for_ever() -> None:
    chosen = settings_of("dare_linear", {"density": 0.5}, [("expert 0", {})])
    base, expert = wide(0.0), wide()
    inputs = Inputs(InMemory(base), [InMemory(expert)], chosen, Layers(count_layers(base)))
    drawn = inputs.uniform(0, "layer.0.weight")
    assert drawn.dtype == torch.float32 and drawn.shape == (200, 300)
    assert float(drawn.min()) >= 0 and float(drawn.max()) < 1
    np.testing.assert_allclose(drawn.flatten()[:3].tolist(), [0.247405, 0.668882, 0.535477], atol=1e-6)


def test_epsilon_must_leave_probabilities() -> None:
    base, expert = model([0.0] * SIZE), model([1.0] * SIZE)
    with pytest.raises(
        RecipeError,
        match=(
            r"epsilon of expert 0 is 0.15 for embeddings\.weight, expected less than 0\.1: density 0\.9 "
            r"plus and minus"
        ),
    ):
        merge("della", base, [expert], {"density": 0.9})
    merge("della", base, [expert], {"density": 0.9, "epsilon": 0.05})


def test_mergekits_ties_trims_by_tensor_and_counts_a_tie_as_positive() -> None:
    up, down = [1.0] * SIZE, [-1.0] * SIZE
    source = merge(
        "ties", model([0.0] * SIZE), [model(up), model(down)], {"density": 1.0}, convention="mergekit"
    )
    np.testing.assert_array_equal(values(source), np.full(SIZE, 1 / 8))
    numbers = [64.0] * 15 + [1.0] * (SIZE - 15)
    by_tensor = merge("ties", model([0.0] * SIZE), [model(numbers)], {"density": 0.5}, convention="mergekit")
    assert int((by_tensor.load("encoder.layer.0.weight") != 0).sum()) == 8
