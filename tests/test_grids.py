import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from epmq_export.errors import CalibrationError
from epmq_export.grids import GRIDS, Grid

BOTH = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())
# From where a float16 scale is subnormal to where it overflows.
magnitudes = st.floats(1e-6, 1e5)
seeds = st.integers(0, 2**31)


def random_weights(seed: int, magnitude: float, out: int = 3, groups: int = 2, group: int = 32) -> Tensor:
    """Rows of unlike spread, with one outlier each."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(out, groups * group, generator=generator) * torch.rand(out, 1, generator=generator)
    weight[:, seed % (groups * group)] *= 5
    return weight / weight.abs().max() * magnitude


@BOTH
@settings(max_examples=25, deadline=None)
@given(seed=seeds, magnitude=magnitudes)
def test_each_weight_goes_to_the_nearest_value_of_its_group(grid: Grid, seed: int, magnitude: float) -> None:
    weight = random_weights(seed, magnitude)
    codes, scales = grid.quantise(weight)
    assert codes.dtype == torch.int8 and codes.shape == weight.shape and scales.dtype == torch.float16 and scales.shape == (3, 2)
    assert grid.lowest <= int(codes.min()) and int(codes.max()) <= grid.highest
    values = scales.double()[:, :, None, None] * torch.arange(grid.lowest, grid.highest + 1)
    groups = weight.double().reshape(3, 2, 32, 1)
    best = (values - groups).abs().amin(-1).reshape(weight.shape)
    found = (grid.dequantise(codes, scales).double() - weight).abs()
    # The scale's reciprocal is a float32: where two values are equally near, either may be taken.
    slack = 1e-6 * scales.double().abs().repeat_interleave(32, 1) * -grid.lowest
    assert bool((found <= best + slack).all())


@BOTH
@settings(max_examples=25, deadline=None)
@given(seed=seeds, magnitude=magnitudes)
def test_a_fitted_scale_is_no_worse_than_the_one_that_reaches_the_largest_weight(grid: Grid, seed: int, magnitude: float) -> None:
    group = random_weights(seed, magnitude, groups=1)
    fitted = grid.fit(group)
    extremes = group.gather(1, group.abs().argmax(1, keepdim=True))[:, 0]
    plain = (extremes / grid.lowest).half()

    def error(scales: Tensor) -> Tensor:
        return (grid.decode(grid.encode(group, scales[:, None]), scales[:, None]).double() - group).square().sum(1)

    assert bool((error(fitted) <= error(plain) * (1 + 1e-5)).all())


@BOTH
@settings(max_examples=25, deadline=None)
@given(seed=seeds, scale=st.floats(2**-14, 1000), negative=st.booleans())
def test_weights_that_are_on_the_grid_come_back_bit_for_bit(grid: Grid, seed: int, scale: float, negative: bool) -> None:
    generator = torch.Generator().manual_seed(seed)
    codes = torch.randint(grid.lowest, grid.highest + 1, (4, 64), generator=generator).to(torch.int8)
    codes[:, ::32] = grid.lowest  # the end of the range that gives the scale away
    scales = (torch.rand(4, 2, generator=generator) * scale + scale).half() * (-1 if negative else 1)
    weight = grid.dequantise(codes, scales)
    assert torch.equal(grid.dequantise(*grid.quantise(weight)), weight)


def test_decoding_is_the_exact_product() -> None:
    for grid in GRIDS.values():
        scales = torch.arange(-(2**15), 2**15, dtype=torch.int32).to(torch.int16).view(torch.float16)
        scales = scales[torch.isfinite(scales)]
        for code in range(grid.lowest, grid.highest + 1, 1 if grid.bits == 4 else 31):
            decoded = grid.decode(torch.tensor(code, dtype=torch.int8), scales)
            assert decoded.dtype == torch.float32 and torch.equal(decoded.double(), scales.double() * code)


@BOTH
def test_zero_groups_have_scale_zero_and_codes_zero(grid: Grid) -> None:
    weight = torch.zeros(2, 64)
    weight[1, 40] = 1.0
    codes, scales = grid.quantise(weight)
    assert scales[0].tolist() == [0, 0] and float(scales[1, 0]) == 0 and float(scales[1, 1]) != 0
    assert not codes[0].any() and not codes[1, :32].any()
    assert torch.equal(grid.dequantise(codes, scales)[0], torch.zeros(64))


def test_the_longer_end_of_the_range_is_where_the_largest_weight_is() -> None:
    grid = GRIDS["Q4_0"]
    for extreme in (8.0, -8.0):
        weight = torch.linspace(-3, 3, 32)[None].clone()
        weight[0, 5] = extreme
        scale = grid.fit(weight)
        # -8 is a code and 8 is none, so the scale has the other sign.
        assert float(scale) * extreme < 0 and int(grid.encode(weight, scale[:, None])[0, 5]) == -8


@BOTH
def test_weights_below_the_smallest_scale_become_zero_and_stay_finite(grid: Grid) -> None:
    for magnitude in (1e-8, 1e-30, 1e-45):
        codes, scales = grid.quantise(torch.full((1, 32), magnitude))
        assert not scales.any() and not codes.any()
    # Where the scale is the smallest float16 there is, codes are still the nearest.
    smallest = 2.0**-24
    weight = (torch.arange(32)[None] % -grid.lowest + grid.lowest) * smallest
    assert torch.equal(grid.dequantise(*grid.quantise(weight)), weight)


@BOTH
def test_what_no_scale_reaches_is_refused(grid: Grid) -> None:
    reach = -grid.lowest * 65504.0
    codes, scales = grid.quantise(torch.full((1, 32), -reach))
    assert torch.equal(grid.dequantise(codes, scales), torch.full((1, 32), -reach))
    with pytest.raises(CalibrationError, match=rf"a weight of .* is beyond the reach of a float16 {grid.name} scale"):
        grid.quantise(torch.full((1, 32), reach * 1.01))
    for bad in (torch.nan, torch.inf, -torch.inf):
        weight = torch.ones(2, 64)
        weight[1, 33] = bad
        with pytest.raises(CalibrationError, match=f"a weight is not finite, so no {grid.name} scale fits it"):
            grid.quantise(weight)


@settings(max_examples=25, deadline=None)
@given(seed=seeds)
def test_importance_lowers_the_error_that_it_weighs(seed: int) -> None:
    grid = GRIDS["Q4_0"]
    weight = random_weights(seed, 1.0, out=16, groups=2)
    importance = torch.rand(64, generator=torch.Generator().manual_seed(seed)) ** 4 * 100 + 1e-3

    def errors(importance: Tensor | None) -> Tensor:
        return (grid.dequantise(*grid.quantise(weight, importance)).double() - weight).square()

    weighed, plain = errors(importance), errors(None)
    assert bool(((weighed * importance).sum(1) <= (plain * importance).sum(1) * (1 + 1e-5)).all())
    assert float((weighed * importance).sum()) < float((plain * importance).sum())
    assert float(plain.sum()) < float(weighed.sum())


def test_equal_importance_is_none() -> None:
    weight = random_weights(5, 1.0)
    for grid in GRIDS.values():
        for one, other in zip(grid.quantise(weight), grid.quantise(weight, torch.full((64,), 2.0)), strict=True):
            assert torch.equal(one, other)


def test_what_fits() -> None:
    grid = GRIDS["Q4_0"]
    assert grid.fits((3, 64)) and not grid.fits((64, 33)) and not grid.fits((64,)) and not grid.fits((2, 2, 32))
    assert [grid.bits for grid in GRIDS.values()] == [4, 8]
