"""Models whose numbers misbehave, merged by every rule: huge and tiny ones, experts that are the base or that
cancel, outliers.
"""

import numpy as np
import pytest
import torch

from epmq_export.errors import InputError, RecipeError
from epmq_export.merging.registry import RULES
from tests.tiny.merges import SIZE, Model, flat, merge, model, values

# These measure lengths or angles, so they need squares of what they merge.
MEASURING = ["iso_c", "iso_cts", "karcher", "model_stock", "slerp", "tsvm", "wudi"]
# Each of these results is a sum in which no number has a length of its own.
HOMOGENEOUS = [rule for rule in RULES if rule not in (*MEASURING, "nearswap")]
BASE = model([(7 * place) % 11 - 5 for place in range(SIZE)])
EXPERTS = [model([(step * place) % 13 - 6 for place in range(SIZE)]) for step in (3, 5)]


def count(rule: str, most: int) -> int:
    """Return the number of experts that a rule takes, up to a number."""
    return min(RULES[rule].experts[1] or most, most)


def times(numbers: Model, factor: float) -> Model:
    return {name: value * factor for name, value in numbers.items()}


@pytest.mark.parametrize("rule", HOMOGENEOUS)
@pytest.mark.parametrize("factor", [2.0**100, 2.0**-60])
def test_huge_and_tiny_numbers_merge_as_others_do(rule: str, factor: float) -> None:
    experts = EXPERTS[: count(rule, 2)]
    scaled = merge(rule, times(BASE, factor), [times(expert, factor) for expert in experts])
    np.testing.assert_array_equal(values(scaled), values(merge(rule, BASE, experts)) * factor)


@pytest.mark.parametrize("rule", MEASURING)
def test_what_is_too_large_to_be_measured_is_refused(rule: str) -> None:
    """It would count as a tensor of length 0 otherwise, or of no direction."""
    source = merge(rule, times(BASE, 1e30), [times(expert, 1e30) for expert in EXPERTS])
    with pytest.raises(InputError, match=r"^encoder\.layer\.0\.weight: its values are so large that their"):
        source.load("encoder.layer.0.weight")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("factor", [1e-25, 1e-40])
def test_numbers_whose_squares_are_zero_merge_to_such_numbers(rule: str, factor: float) -> None:
    experts = [times(expert, factor) for expert in EXPERTS[: count(rule, 2)]]
    # WUDI's steps are of a length of their own, whatever is merged.
    own = {"steps": 0} if rule == "wudi" else {}
    found = values(merge(rule, times(BASE, factor), experts, own))
    assert np.isfinite(found).all() and np.abs(found).max() <= 20 * factor


def test_a_sum_beyond_float32_is_refused() -> None:
    experts = [model([8 * 3e38] * SIZE)] * 3
    with pytest.raises(
        RecipeError, match="scalar has values beyond float32: look for outliers in the models, or use a sm"
    ):
        merge("linear", BASE, experts, {"normalize": False}).load("scalar")


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("copies", [1, 3])
def test_experts_that_are_the_base_give_the_base(rule: str, copies: int) -> None:
    fewest, most = RULES[rule].experts
    experts = [BASE] * max(fewest, min(copies, most or copies))
    np.testing.assert_allclose(values(merge(rule, BASE, experts)), flat(BASE), rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rule", [rule for rule in RULES if RULES[rule].experts[1] is None])
@pytest.mark.parametrize("pairs", [1, 10])
def test_experts_of_opposite_signs_stay_between_each_other(rule: str, pairs: int) -> None:
    """Their rounding errors must not become a direction."""
    generator = torch.Generator().manual_seed(0)
    change = {name: 0.1 * torch.randn(value.shape, generator=generator) for name, value in BASE.items()}
    experts = [{name: value + sign * change[name] for name, value in BASE.items()} for sign in (1, -1)]
    found = values(merge(rule, BASE, experts * pairs)) - flat(BASE)
    if rule in ("dare_linear", "della_linear"):  # What random drops leave does not cancel.
        bound = 0.3 * 4 * 2 * pairs * np.abs(flat(change))
    elif rule.endswith("ties") or rule == "della":  # One of the two signs is elected, and its mean taken.
        bound = 4 * np.abs(flat(change))
    elif rule == "karcher":  # The mean of two arcs is a little off the middle of the chord.
        bound = np.full_like(found, 0.05)
    else:
        bound = np.zeros_like(found)
    assert (np.abs(found) <= bound + 1e-5).all()


@pytest.mark.parametrize("rule", RULES)
def test_an_outlier_stays_in_its_tensor(rule: str) -> None:
    """TIES alone compares all tensors of an expert with each other."""
    experts = [dict(expert) for expert in EXPERTS[: count(rule, 2)]]
    experts[0]["encoder.layer.0.weight"] = experts[0]["encoder.layer.0.weight"].clone()
    experts[0]["encoder.layer.0.weight"][1, 2] = 1e4
    plain, found = merge(rule, BASE, EXPERTS[: len(experts)]), merge(rule, BASE, experts)
    assert torch.isfinite(found.load("encoder.layer.0.weight")).all()
    if rule != "ties":
        assert torch.equal(found.load("encoder.layer.1.bias"), plain.load("encoder.layer.1.bias"))
