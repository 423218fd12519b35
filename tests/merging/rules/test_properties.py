"""What holds for many rules, whatever the numbers."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from epmq_export.merging.merged import merged
from epmq_export.merging.registry import RULES
from tests.tiny.in_memory import InMemory
from tests.tiny.merges import NUMBERS, SIZE, Model, flat, merge, model, needed, settings_of, values

SETTINGS = settings(max_examples=15)
ABSOLUTE = ["linear", "slerp", "karcher"]  # of models, not of their task vectors
SPECTRAL = ["tsvm", "iso_c", "iso_cts"]
MANY = [rule for rule, parts in RULES.items() if parts.experts[1] is None]
DISTINCT = st.permutations(
    range(1, SIZE + 1)
)  # magnitudes that differ, so that no threshold falls among equals
CONVENTIONS = pytest.mark.parametrize("convention", ["paper", "mergekit"])


def cheap(rule: str) -> dict[str, float]:
    return {"steps": 30, "learning_rate": 1e-3} if rule == "wudi" else {}


def with_names(
    rule: str, base: Model, experts: Sequence[tuple[str, Model]], convention: str
) -> NDArray[np.float64]:
    chosen = settings_of(
        rule, {**needed(rule), **cheap(rule)}, [(name, {}) for name, _ in experts], convention
    )
    return values(merged(InMemory(base), [InMemory(expert) for _, expert in experts], chosen))


@CONVENTIONS
@pytest.mark.parametrize("rule", MANY)
def test_the_order_of_the_experts_does_not_matter(rule: str, convention: str) -> None:
    @SETTINGS
    @given(DISTINCT, st.lists(DISTINCT, min_size=2, max_size=3), st.randoms(use_true_random=False))
    def check(numbers: list[int], others: list[list[int]], random: Any) -> None:
        experts = [
            (f"expert {index}", model([number / 4 for number in each])) for index, each in enumerate(others)
        ]
        shuffled = random.sample(experts, len(experts))
        base = model([float(number) for number in numbers])
        tolerance = 2e-3 if rule in SPECTRAL else 1e-4
        np.testing.assert_allclose(
            with_names(rule, base, experts, convention),
            with_names(rule, base, shuffled, convention),
            rtol=tolerance,
            atol=tolerance,
        )

    check()


@CONVENTIONS
@pytest.mark.parametrize("rule", [rule for rule in MANY if rule not in (*ABSOLUTE, "wudi", "model_stock")])
def test_task_vectors_of_twice_the_length_give_twice_the_change(rule: str, convention: str) -> None:
    """Not for WUDI, whose Adam takes steps of a length of its own; model_stock has a test below."""

    @SETTINGS
    @given(st.lists(NUMBERS, min_size=2, max_size=3))
    def check(numbers: list[list[int]]) -> None:
        base = model([0.0] * SIZE)
        once = values(merge(rule, base, [model(each) for each in numbers], convention=convention))
        twice = values(
            merge(
                rule,
                base,
                [model([2 * number for number in each]) for each in numbers],
                convention=convention,
            )
        )
        np.testing.assert_allclose(twice, 2 * once, rtol=1e-3, atol=1e-3)

    check()


@SETTINGS
@given(st.lists(NUMBERS, min_size=2, max_size=3))
def test_model_stock_scales_with_its_task_vectors(numbers: list[list[int]]) -> None:
    base = model([0.0] * SIZE)
    once = values(merge("model_stock", base, [model(each) for each in numbers]))
    twice = values(merge("model_stock", base, [model([2 * number for number in each]) for each in numbers]))
    np.testing.assert_allclose(twice, 2 * once, rtol=1e-3, atol=1e-3)


@CONVENTIONS
@pytest.mark.parametrize(
    "rule", [rule for rule in RULES if rule not in ("model_stock", "iso_c", "iso_cts", "slerp")]
)
def test_one_expert_at_its_full_length_comes_back(rule: str, convention: str) -> None:
    """Not for Iso-C and Iso-CTS, which flatten what they are given."""
    known = RULES[rule].parameters
    full = {"lambda": 1.0, "density": 1.0, "t": 1e6}  # no number differs by as much as this t
    everything = {**{name: value for name, value in full.items() if name in known}, **cheap(rule)}

    @SETTINGS
    @given(NUMBERS, NUMBERS)
    def check(numbers: list[int], other: list[int]) -> None:
        base, expert = model(numbers), model(other)
        np.testing.assert_allclose(
            values(merge(rule, base, [expert], everything, convention=convention)),
            flat(expert),
            rtol=1e-5,
            atol=1e-5,
        )

    check()


@CONVENTIONS
@pytest.mark.parametrize("rule", ["linear", "karcher", "ties", "model_stock"])
def test_equal_experts_are_one(rule: str, convention: str) -> None:
    @SETTINGS
    @given(NUMBERS, NUMBERS)
    def check(numbers: list[int], other: list[int]) -> None:
        base, expert = model(numbers), model(other)
        parameters = {"density": 1.0} if rule == "ties" else {}
        np.testing.assert_allclose(
            values(merge(rule, base, [expert] * 3, parameters, convention=convention)),
            flat(expert),
            rtol=1e-5,
            atol=1e-5,
        )

    check()
