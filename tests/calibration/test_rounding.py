"""GPTQ's rounding against the plain algorithm, and against rounding to the nearest."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from epmq_export.calibration.rounding import LAZY, gptq, nearest
from epmq_export.calibration.solver import inverse_factor
from epmq_export.errors import CalibrationError
from epmq_export.grids import GRIDS, Grid
from epmq_export.tensors.packed import PackedTensor

GRID = GRIDS["Q4_0"]


def problem(seed: int, width: int, correlation: float, out: int = 8) -> tuple[Tensor, Tensor]:
    """A weight [out, width] and a Hessian whose channels share a few directions to the given degree;
    float64.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = torch.randn(4 * width, width, dtype=torch.float64, generator=generator)
    shared = torch.randn(4 * width, 4, dtype=torch.float64, generator=generator) @ torch.randn(
        4, width, dtype=torch.float64, generator=generator
    )
    rows = (1 - correlation) * rows + correlation * shared
    hessian = rows.T @ rows
    hessian = hessian / hessian.norm() + 1e-3 * torch.eye(width, dtype=torch.float64)
    return torch.randn(out, width, dtype=torch.float64, generator=generator), hessian


def loss(found: PackedTensor, weight: Tensor, hessian: Tensor) -> float:
    error = found.dequantise().double() - weight
    return float(((error @ hessian) * error).sum())


def reference(weight: Tensor, hessian: Tensor, scales: Tensor) -> Tensor:
    """GPTQ as its paper states it, in float64 and unblocked: the inverse of what is left of H, column by
    column. Codes for given scales.
    """
    left, inverse = weight.clone(), torch.linalg.inv(hessian)
    codes = torch.empty_like(weight)
    for j in range(weight.shape[1]):
        scale = scales[:, j // GRID.group].double()
        codes[:, j] = torch.where(scale == 0, 0, left[:, j] / scale).round().clamp(GRID.lowest, GRID.highest)
        error = (left[:, j] - codes[:, j] * scale) / inverse[j, j]
        left -= error[:, None] * inverse[j]
        inverse = inverse - torch.outer(inverse[:, j], inverse[j]) / inverse[j, j]
    return codes


@pytest.mark.parametrize("width", [32, LAZY, LAZY + 32, 2 * LAZY + 96])
@pytest.mark.parametrize("correlation", [0.0, 0.7])
def test_it_is_gptq(width: int, correlation: float) -> None:
    weight, hessian = problem(width, width, correlation)
    found = gptq(weight, inverse_factor(hessian, "layer"), GRID)
    assert (
        found.codes.shape == weight.shape
        and found.stored["scales"].shape == (8, width // 32)
        and found.codes.is_contiguous()
        and found.stored["scales"].is_contiguous()
    )
    codes = reference(weight, hessian, found.stored["scales"])
    # float32 against float64: a weight that lies between two codes may fall to the other side, and its row
    # goes on from there.
    same = (found.codes == codes).all(1)
    assert int(same.sum()) >= 7
    wanted = PackedTensor(GRID, codes.to(torch.int8), found.stored)
    assert loss(found, weight, hessian) == pytest.approx(loss(wanted, weight, hessian), rel=0.02)


@settings(max_examples=15)
@given(seed=st.integers(0, 2**31), correlation=st.sampled_from([0.3, 0.6, 0.9]), groups=st.integers(2, 6))
def test_on_correlated_inputs_it_beats_the_nearest(seed: int, correlation: float, groups: int) -> None:
    weight, hessian = problem(seed, 32 * groups, correlation)
    found = gptq(weight, inverse_factor(hessian, "layer"), GRID)
    assert GRID.lowest <= int(found.codes.min()) and int(found.codes.max()) <= GRID.highest
    assert loss(found, weight, hessian) < loss(nearest(weight, GRID), weight, hessian)


def test_on_average_it_is_no_worse_than_the_nearest_even_without_correlation() -> None:
    ratios = []
    for seed in range(8):
        weight, hessian = problem(seed, 96, 0.0)
        ratios.append(
            loss(gptq(weight, inverse_factor(hessian, "layer"), GRID), weight, hessian)
            / loss(nearest(weight, GRID), weight, hessian)
        )
    assert sum(ratios) / len(ratios) < 1.0


EACH = pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS.keys())


@EACH
def test_with_independent_inputs_it_is_the_nearest(grid: Grid) -> None:
    weight = torch.randn(16, 512, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    found, plain = gptq(weight, torch.eye(512, dtype=torch.float64) * 0.5, grid), nearest(weight, grid)
    assert torch.equal(found.codes, plain.codes) and all(
        torch.equal(found.stored[part], plain.stored[part]) for part in grid.parts
    )
    assert all(value.is_contiguous() for value in found.stored.values())


@EACH
def test_on_every_grid_it_beats_the_nearest(grid: Grid) -> None:
    weight, hessian = problem(3, 512, 0.6)
    found = gptq(weight, inverse_factor(hessian, "layer"), grid)
    assert {part: tuple(value.shape) for part, value in found.stored.items()} == {
        name: (8, 512 // grid.group * part.count) for name, part in grid.parts.items()
    }
    assert loss(found, weight, hessian) < 0.9 * loss(nearest(weight, grid), weight, hessian)


@pytest.mark.parametrize("name", ["Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K"])
def test_a_subgroup_fitted_anew_when_it_is_reached_lowers_the_loss(
    name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid = GRIDS[name]
    weight, hessian = problem(4, 512, 0.6, out=64)
    upper = inverse_factor(hessian, "layer")
    anew = loss(gptq(weight, upper, grid), weight, hessian)
    monkeypatch.setattr(type(grid), "refit", Grid.refit)
    assert anew < loss(gptq(weight, upper, grid), weight, hessian)


@pytest.mark.parametrize("name", ["Q4_0", "Q4_1", "IQ4_NL", "Q4_K"])
def test_it_knows_what_each_row_loses(name: str) -> None:
    weight, hessian = problem(5, 512, 0.6)
    rise = torch.empty(len(weight))
    found = gptq(weight, inverse_factor(hessian, "layer"), GRIDS[name], rise)
    error = found.dequantise().double() - weight
    torch.testing.assert_close(rise.double(), ((error @ hessian) * error).sum(1), rtol=1e-4, atol=0)


def test_the_weight_is_left_as_it_was() -> None:
    """Also where it already has the layout that the loop works in."""
    weight, hessian = problem(0, 64, 0.5)
    transposed = weight.float().T.contiguous().T
    before = transposed.clone()
    gptq(transposed, inverse_factor(hessian, "layer"), GRID)
    assert torch.equal(transposed, before)


def test_zero_weights_stay_zero() -> None:
    _, hessian = problem(0, 64, 0.5)
    found = gptq(torch.zeros(3, 64, dtype=torch.float64), inverse_factor(hessian, "layer"), GRID)
    assert not found.codes.any() and not found.stored["scales"].any()


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_what_is_not_finite_is_an_error(bad: float) -> None:
    weight, hessian = problem(0, 64, 0.5)
    weight[2, 40] = bad
    with pytest.raises(CalibrationError, match="not finite"):
        gptq(weight, inverse_factor(hessian, "layer"), GRID)
    with pytest.raises(CalibrationError, match="not finite"):
        nearest(weight, GRID)


def test_an_error_that_overflows_on_its_way_is_an_error_and_no_code() -> None:
    """Between two fits nothing looks at the weights: the errors passed on within a group are looked at
    too.
    """
    weight = torch.ones(1, 32, dtype=torch.float64)
    weight[0, :16] = 0.3
    upper = torch.eye(32, dtype=torch.float64)
    upper[0, 1:] = 3e38
    upper[1, 2:] = 3e38
    with pytest.raises(CalibrationError, match=r"rounding errors are not finite at input channels 0 to 31"):
        gptq(weight, upper, GRID)
