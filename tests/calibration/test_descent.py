"""Descent lowers GPTQ's loss on every grid, and each of its two halves is the best that it can be."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from epmq_export.calibration import descent
from epmq_export.calibration.descent import descend
from epmq_export.calibration.rounding import gptq, nearest
from epmq_export.calibration.solver import inverse_factor
from epmq_export.grids import GRIDS, Grid
from epmq_export.tensors.packed import PackedTensor

# Wide enough for two blocks of lazy updates, and for a group of every grid.
OUT, WIDTH = 6, 256


def problem(seed: int, spread: float = 1.0) -> tuple[Tensor, Tensor]:
    """W* [out, in], and a Hessian whose eigenvalues fall by e ** spread again and again."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(OUT, WIDTH, generator=generator)
    basis = torch.linalg.qr(torch.randn(WIDTH, WIDTH, generator=generator, dtype=torch.float64)).Q
    return weight, basis @ torch.diag(
        torch.exp(-spread * torch.linspace(0, 6, WIDTH, dtype=torch.float64))
    ) @ basis.T


def loss(weight: Tensor, hessian: Tensor, packed: PackedTensor) -> float:
    error = packed.dequantise().double() - weight.double()
    return float(((error @ hessian) * error).sum())


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
@settings(max_examples=3)
@given(seed=st.integers(0, 1000), spread=st.floats(0, 2))
def test_never_above_its_start(grid: Grid, seed: int, spread: float) -> None:
    weight, hessian = problem(seed, spread)
    for start in (nearest(weight, grid), gptq(weight, inverse_factor(hessian, "here"), grid)):
        found = descend(weight, hessian, start)
        assert loss(weight, hessian, found) <= loss(weight, hessian, start) * (1 + 1e-5)
        assert found.codes.min() >= grid.lowest and found.codes.max() <= grid.highest
        assert {part: value.dtype for part, value in found.stored.items()} == {
            part: value.dtype for part, value in start.stored.items()
        }


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_well_below_gptq_where_channels_are_correlated(grid: Grid) -> None:
    weight, hessian = problem(1)
    start = gptq(weight, inverse_factor(hessian, "here"), grid)
    assert loss(weight, hessian, descend(weight, hessian, start)) < 0.97 * loss(weight, hessian, start)


def test_what_lies_on_the_grid_stays() -> None:
    weight, hessian = problem(2)
    start = nearest(weight, GRIDS["Q4_0"])
    found = descend(start.dequantise(), hessian, start)
    assert torch.equal(found.dequantise(), start.dequantise())


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_wished_steps_are_the_least_squares_ones(grid: Grid) -> None:
    weight, hessian = problem(3, 0.3)
    start = nearest(weight, grid)
    step, offset = descent._wished(weight, hessian.float(), grid.level(start.codes), start)
    root = torch.linalg.cholesky(hessian).T
    count = WIDTH // grid.subgroup
    for row in range(OUT):
        levels = torch.block_diag(*grid.level(start.codes[row]).reshape(count, -1)).T.double()
        ones = torch.block_diag(*torch.ones(count, grid.subgroup)).T.double()
        design = levels if offset is None else torch.cat((levels, ones), 1)
        best = torch.linalg.lstsq(root @ design, root @ weight[row].double()).solution
        found = step[row] if offset is None else torch.cat((step[row], offset[row]))
        torch.testing.assert_close(found.double(), best, rtol=1e-2, atol=1e-3)


def test_a_sweep_takes_the_best_code_of_each_column_in_turn() -> None:
    """Against the plain algorithm, one column and one full gradient at a time."""
    grid = GRIDS["Q4_0"]
    weight, hessian = problem(4)
    start = nearest(weight, grid)
    step, _ = grid.steps(start.stored)
    values = start.dequantise().double()
    for j in range(WIDTH):
        pull = (values - weight.double()) @ hessian[:, j]
        aim = (values[:, j] - pull / hessian[j, j]).float()
        values[:, j] = grid.decode(grid.encode(aim, step[:, j // 32]), step[:, j // 32]).double()
    found = grid.dequantise(descent._recode(weight, hessian.float(), start), start.stored)
    assert (found.double() == values).float().mean() > 0.995  # float32 sums may decide a tie otherwise
