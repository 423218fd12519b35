"""What holds for every grid."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from epmq_export.errors import CalibrationError
from epmq_export.grids import GRIDS, Grid
from epmq_export.grids import grid as grids
from epmq_export.grids.zeroed import Zeroed
from tests.tiny.grid_points import random_point, random_weights

EACH = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
# From where a float16 scale is subnormal to where it nearly overflows.
magnitudes = st.floats(1e-6, 5e4)
seeds = st.integers(0, 2**31)


@EACH
@settings(max_examples=15)
@given(seed=seeds, magnitude=magnitudes)
def test_each_weight_goes_to_the_nearest_value_of_its_group(grid: Grid, seed: int, magnitude: float) -> None:
    weight = random_weights(seed, magnitude, width=2 * grid.group)
    codes, stored = grid.quantise(weight)
    assert codes.dtype == torch.int8 and codes.shape == weight.shape and stored["scales"].shape == (3, 2)
    assert {name: (value.dtype, value.shape) for name, value in stored.items()} == {
        name: (part.dtype, (3, 2 * part.count)) for name, part in grid.parts.items()
    }
    assert grid.lowest <= int(codes.min()) and int(codes.max()) <= grid.highest
    step, offset = grid.steps(stored)
    values = step.double()[:, :, None, None] * torch.tensor(grid.levels).double()
    values = values if offset is None else values + offset.double()[:, :, None, None]
    subgroups = weight.double().reshape(3, -1, grid.subgroup, 1)
    best = (values - subgroups).abs().amin(-1).reshape(weight.shape)
    found = (grid.dequantise(codes, stored).double() - weight).abs()
    # Ratios are float32: where two values are equally near, either may be taken.
    slack = 1e-6 * (values.abs().amax((2, 3)) + weight.abs().max()).repeat_interleave(grid.subgroup, 1)
    assert bool((found <= best + slack).all())


@EACH
def test_weights_fitted_in_parts_are_those_fitted_together(
    grid: Grid, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Bit for bit. Parts have a multiple of 64 groups, but for the last."""
    weight = random_weights(0, 1.0, out=201, width=grid.group)
    importance = torch.rand(grid.group, generator=torch.Generator().manual_seed(0))
    for weighed in (None, importance):
        monkeypatch.setattr(grids, "_TOGETHER", 2**30)
        wanted = grid.quantise(weight, weighed)
        monkeypatch.setattr(grids, "_TOGETHER", 64 * grid.group)
        codes, stored = grid.quantise(weight, weighed)
        assert torch.equal(codes, wanted[0])
        assert all(torch.equal(stored[part], wanted[1][part]) for part in grid.parts)


@EACH
@settings(max_examples=25)
@given(seed=seeds)
def test_a_value_is_rounded_once_after_exact_products(grid: Grid, seed: int) -> None:
    point = random_point(grid, 4, 2, seed)
    step, offset = (
        None if value is None else value.double().repeat_interleave(grid.subgroup, 1)
        for value in grid.steps(point.stored)
    )
    assert step is not None
    exact = step * torch.tensor(grid.levels).double()[point.codes.int() - grid.lowest]
    values = point.dequantise()
    assert values.dtype == torch.float32 and torch.equal(
        values, (exact if offset is None else exact + offset).float()
    )


@EACH
@settings(max_examples=25)
@given(seed=seeds)
def test_steps_that_are_stored_come_back(grid: Grid, seed: int) -> None:
    """Where a subgroup has all of its group's number: without one, there is a finer number for the same
    group.
    """
    point = random_point(grid, 4, 2, seed)
    for name, part in grid.parts.items():
        if part.count > 1:
            point.stored[name][:, :: part.count] = (
                0 if grid.lowest < 0 else 2**part.bits - 1
            )  # a signed share is stored with a bias
    step, offset = grid.steps(point.stored)
    again = grid.round(step, offset)
    assert {name: (value.dtype, value.shape) for name, value in again.items()} == {
        name: (value.dtype, value.shape) for name, value in point.stored.items()
    }
    found, shifted = grid.steps(again)
    assert torch.equal(found, step) and (
        offset is None or (shifted is not None and torch.equal(shifted, offset))
    )


@EACH
@settings(max_examples=25)
@given(seed=seeds, magnitude=st.floats(1e-2, 1e2))
def test_wished_steps_are_stored_as_near_as_the_grid_can(grid: Grid, seed: int, magnitude: float) -> None:
    generator = torch.Generator().manual_seed(seed)
    # Away from 0, where a float16 has fewer bits.
    wished = (0.1 + 0.9 * torch.rand(3, 2 * grid.group // grid.subgroup, generator=generator)) * magnitude
    step, offset = grid.steps(grid.round(wished, -2 * wished))
    shares = [2 ** (part.bits - (grid.lowest < 0)) - 1 for part in grid.parts.values() if part.count > 1]
    near = 0.6 / shares[0] if shares else 2**-7 if isinstance(grid, Zeroed) else 2**-11
    bound = near * wished.reshape(6, -1).amax(1).repeat_interleave(grid.group // grid.subgroup).reshape(3, -1)
    assert bool(((step - wished).abs() <= bound).all()) and (
        offset is None or bool(((offset + 2 * wished).abs() <= 2 * bound).all())
    )


@EACH
@settings(max_examples=10)
@given(seed=seeds)
def test_importance_lowers_the_error_that_it_weighs(grid: Grid, seed: int) -> None:
    weight = random_weights(seed, 1.0, out=16, width=2 * grid.group)
    importance = torch.rand(2 * grid.group, generator=torch.Generator().manual_seed(seed)) ** 4 * 100 + 1e-3

    def errors(importance: Tensor | None) -> Tensor:
        return (grid.dequantise(*grid.quantise(weight, importance)).double() - weight).square()

    weighed, plain = errors(importance), errors(None)
    assert float((weighed * importance).sum()) < float((plain * importance).sum())
    assert float(plain.sum()) < float(weighed.sum())


@EACH
def test_equal_importance_is_none(grid: Grid) -> None:
    weight = random_weights(5, 1.0, width=grid.group)
    codes, stored = grid.quantise(weight)
    again, weighed = grid.quantise(weight, torch.full((grid.group,), 2.0))
    assert torch.equal(codes, again) and all(torch.equal(stored[part], weighed[part]) for part in grid.parts)


@EACH
def test_zero_groups_stay_zero(grid: Grid) -> None:
    weight = torch.zeros(2, 2 * grid.group)
    weight[1, grid.group + 8] = 1.0
    codes, stored = grid.quantise(weight)
    values = grid.dequantise(codes, stored)
    assert (
        not values[0].any() and not values[1, : grid.group].any() and stored["scales"][0].tolist() == [0, 0]
    )
    assert torch.allclose(values, weight, atol=0.01)  # IQ4_NL has no level 0


@EACH
def test_weights_below_the_smallest_scale_become_zero_and_stay_finite(grid: Grid) -> None:
    for magnitude in (1e-9, 1e-30, 1e-45):
        assert not grid.dequantise(*grid.quantise(torch.full((1, grid.group), magnitude))).any()


@EACH
def test_what_is_not_finite_or_beyond_float16_is_refused(grid: Grid) -> None:
    with pytest.raises(
        CalibrationError, match=rf"a weight of .* is beyond the reach of a float16 {grid.name} scale"
    ):
        grid.quantise(torch.full((1, grid.group), 1e10))
    for bad in (torch.nan, torch.inf, -torch.inf):
        weight = torch.ones(2, 2 * grid.group)
        weight[1, grid.group + 1] = bad
        with pytest.raises(
            CalibrationError, match=f"a weight is not finite, so no {grid.name} scale fits it"
        ):
            grid.quantise(weight)


@EACH
def test_what_fits(grid: Grid) -> None:
    assert (
        grid.fits((3, 2 * grid.group))
        and not grid.fits((2 * grid.group, grid.group + 1))
        and not grid.fits((grid.group,))
    )
    assert not grid.fits((2, 2, grid.group)) and grid.group % grid.subgroup == 0


def test_bits() -> None:
    assert {name: (grid.bits, grid.bits_per_weight) for name, grid in GRIDS.items()} == {
        "Q2_0": (2, 2.25),
        "Q2_K": (2, 2.625),
        "Q3_K": (3, 3.4375),
        "Q4_0": (4, 4.5),
        "Q4_1": (4, 5.0),
        "Q4_1Z": (4, 5.0),
        "IQ4_NL": (4, 4.5),
        "Q4_K": (4, 4.5),
        "Q5_0": (5, 5.5),
        "Q5_K": (5, 5.5),
        "Q6_K": (6, 6.5625),
        "Q8_0": (8, 8.5),
    }
