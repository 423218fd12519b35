"""Grids with a scale a group."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from epmq_export.errors import CalibrationError
from epmq_export.grids import GRIDS, Grid
from epmq_export.grids.scaled import Scaled
from tests.tiny.grid_points import random_weights

SCALED = [grid for grid in GRIDS.values() if isinstance(grid, Scaled)]
EACH = pytest.mark.parametrize("grid", SCALED, ids=[grid.name for grid in SCALED])
seeds = st.integers(0, 2**31)


def longest(grid: Grid) -> int:
    """Return the level farthest from 0, at which the largest weight of a group may stand unclipped."""
    return max(grid.levels, key=abs)


@EACH
@settings(max_examples=25)
@given(seed=seeds, magnitude=st.floats(1e-6, 1e5))
def test_a_fitted_scale_is_no_worse_than_the_one_that_reaches_the_largest_weight(
    grid: Grid, seed: int, magnitude: float
) -> None:
    group = random_weights(seed, magnitude, width=grid.group)
    fitted = grid.fit(group)["scales"].float()
    extremes = group.gather(1, group.abs().argmax(1, keepdim=True))
    plain = (extremes / longest(grid)).half().float()

    def error(step: Tensor) -> Tensor:
        return (grid.decode(grid.encode(group, step), step).double() - group).square().sum(1)

    assert bool((error(fitted) <= error(plain) * (1 + 1e-5)).all())


@settings(max_examples=60)
@given(seed=seeds, scale=st.floats(2**-14, 1000), negative=st.booleans(), largest=st.integers(1, 8))
def test_weights_that_are_on_q4_0_come_back_bit_for_bit(
    seed: int, scale: float, negative: bool, largest: int
) -> None:
    """Whatever the largest code of their group is."""
    on_grid(GRIDS["Q4_0"], seed, scale, negative, -largest, min(largest, 7))


@EACH
@settings(max_examples=25)
@given(seed=seeds, scale=st.floats(2**-14, 1000), negative=st.booleans())
def test_weights_that_are_on_the_grid_and_reach_its_end_come_back_bit_for_bit(
    grid: Grid, seed: int, scale: float, negative: bool
) -> None:
    on_grid(grid, seed, scale, negative, grid.lowest, grid.highest)


def on_grid(grid: Grid, seed: int, scale: float, negative: bool, lowest: int, highest: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(lowest, highest + 1, (4, 2 * grid.group), generator=generator).to(torch.int8)
    # So that the group's largest is what the test says.
    codes[:, :: grid.group] = max((lowest, highest), key=lambda code: abs(grid.levels[code - grid.lowest]))
    scales = (torch.rand(4, 2, generator=generator) * scale + scale).half() * (-1 if negative else 1)
    weight = grid.dequantise(codes, {"scales": scales})
    assert torch.equal(grid.dequantise(*grid.quantise(weight)), weight)


@EACH
@settings(max_examples=25)
@given(seed=seeds, magnitude=st.floats(1e-2, 1e2))
def test_quantising_twice_is_quantising_once(grid: Grid, seed: int, magnitude: float) -> None:
    once = grid.dequantise(*grid.quantise(random_weights(seed, magnitude, out=16)))
    assert torch.equal(grid.dequantise(*grid.quantise(once)), once)


def test_zero_groups_have_scale_zero_and_codes_zero() -> None:
    for grid in (GRIDS["Q4_0"], GRIDS["Q8_0"]):
        codes, stored = grid.quantise(torch.zeros(2, 64))
        assert not stored["scales"].any() and not codes.any()


def test_the_longer_end_of_the_range_is_where_the_largest_weight_is() -> None:
    grid = GRIDS["Q4_0"]
    for extreme in (8.0, -8.0):
        weight = torch.linspace(-3, 3, 32)[None].clone()
        weight[0, 5] = extreme
        scale = grid.fit(weight)["scales"].float()
        # -8 is a code and 8 is none, so the scale has the other sign.
        assert float(scale) * extreme < 0 and int(grid.encode(weight, scale)[0, 5]) == -8


@EACH
def test_the_smallest_scale_there_is_and_the_largest(grid: Grid) -> None:
    weight = (torch.arange(grid.group)[None] % -grid.levels[0] + grid.levels[0]) * 2.0**-24
    if grid.even:
        assert torch.equal(grid.dequantise(*grid.quantise(weight)), weight)
    reach = abs(longest(grid)) * 65504.0
    largest = torch.full((1, grid.group), -reach)
    assert torch.equal(grid.dequantise(*grid.quantise(largest)), largest)
    with pytest.raises(
        CalibrationError, match=rf"a weight of .* is beyond the reach of a float16 {grid.name} scale"
    ):
        grid.quantise(largest * 1.01)
