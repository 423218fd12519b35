"""Descent lowers GPTQ's loss on every grid, and each of its two halves is the best that it can be."""

from functools import cache

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
        found = descend(weight, hessian, start).packed
        assert loss(weight, hessian, found) <= loss(weight, hessian, start) * (1 + 1e-5)
        assert found.codes.min() >= grid.lowest and found.codes.max() <= grid.highest
        assert {part: value.dtype for part, value in found.stored.items()} == {
            part: value.dtype for part, value in start.stored.items()
        }


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_well_below_gptq_where_channels_are_correlated(grid: Grid) -> None:
    weight, hessian = problem(1)
    start = gptq(weight, inverse_factor(hessian, "here"), grid)
    found = descend(weight, hessian, start)
    assert loss(weight, hessian, found.packed) < 0.97 * loss(weight, hessian, start)
    rises = each(weight, hessian, found.packed)
    torch.testing.assert_close(found.rise.double(), rises, rtol=1e-3, atol=1e-6)


def test_what_lies_on_the_grid_stays() -> None:
    weight, hessian = problem(2)
    start = nearest(weight, GRIDS["Q4_0"])
    found = descend(start.dequantise(), hessian, start).packed
    assert torch.equal(found.dequantise(), start.dequantise())


def test_wide_linears_are_fitted_on_several_threads() -> None:
    """Fit as many steps as 5,632 inputs in groups of 32 have. Torch's LU decompositions of so many rows go
    wrong on several threads.
    """
    unknowns, rows = 176, 40
    parts = torch.randn(rows, unknowns, unknowns, generator=torch.Generator().manual_seed(0))
    normal = (parts @ parts.mT / unknowns + torch.eye(unknowns)).permute(1, 2, 0).contiguous()
    expected = torch.linspace(-1, 1, unknowns * rows).reshape(unknowns, rows)
    right = torch.einsum("ijr,jr->ir", normal, expected)
    torch.set_num_threads(2)
    try:
        step, offset = descent._wished(normal, right, torch.zeros_like(right), shifted=False)
    finally:
        torch.set_num_threads(1)
    assert offset is None
    torch.testing.assert_close(step, expected.T, rtol=0, atol=1e-4)


def test_a_row_whose_equations_have_no_solution_keeps_its_steps() -> None:
    normal = torch.stack([2 * torch.eye(3), torch.tensor([[1.0, 9, 0], [9, 1, 0], [0, 0, 1]])], 2)
    right, kept = torch.ones(3, 2), torch.full((3, 2), 7.0)
    step, _ = descent._wished(normal, right, kept, shifted=False)
    torch.testing.assert_close(step, torch.tensor([[0.5] * 3, [7.0] * 3]))


@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_wished_steps_are_the_least_squares_ones(grid: Grid) -> None:
    weight, hessian = problem(3, 0.3)
    start = nearest(weight, grid)
    shifted = grid.steps(start.stored)[1] is not None
    level, aim = grid.level(start.codes), weight @ hessian.float()
    equations = descent._equations(aim.T, hessian.float(), level.T.contiguous(), grid.subgroup, shifted)
    step, offset = descent._wished(*equations, torch.zeros_like(equations[1]), shifted)
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
    state = descent._State.start(weight, hessian.float(), start)
    swept = descent._recoded(state, hessian.float())
    found, error = swept.error().T + weight, swept.error()
    torch.testing.assert_close(swept.loss, (error * (hessian.float() @ error)).sum(0), rtol=1e-4, atol=1e-4)
    same = (found.double() - values).abs() < 1e-4 * values.abs().max()
    assert same.float().mean() > 0.995  # float32 sums may decide a tie otherwise


def plain(weight: Tensor, hessian: Tensor, start: PackedTensor) -> PackedTensor:
    """The same descent without its economies: all products anew, all rows in every round, one column at a
    time; in float64 but for what decides about codes.
    """
    grid, weight, best = start.grid, weight.double(), start
    shifted = grid.steps(start.stored)[1] is not None
    open_rows = torch.ones(len(weight), dtype=torch.bool)
    for _ in range(descent.ROUNDS):
        before, level = each(weight, hessian, best), grid.level(best.codes)
        equations = descent._equations(
            (weight @ hessian).T.float(), hessian.float(), level.T.contiguous(), grid.subgroup, shifted
        )
        wished = descent._wished(*equations, torch.zeros_like(equations[1]), shifted)
        refitted = PackedTensor(grid, best.codes, grid.round(*wished))
        lower = open_rows & (each(weight, hessian, refitted) < before)
        refitted = mixed(lower, refitted, best)
        step, offset = grid.steps(refitted.stored)
        values, codes = refitted.dequantise().double(), refitted.codes.clone()
        for j in range(WIDTH):
            k = j // grid.subgroup
            ours = None if offset is None else offset[:, k]
            pull = (values - weight) @ hessian[:, j]
            codes[:, j] = grid.encode((values[:, j] - pull / hessian[j, j]).float(), step[:, k], ours)
            values[:, j] = grid.decode(codes[:, j], step[:, k], ours).double()
        found = PackedTensor(grid, codes, refitted.stored)
        after = each(weight, hessian, found)
        best = mixed(open_rows & (after < before), found, best)
        open_rows &= (after < before) & (before - after >= descent.TOLERANCE * before)
        if not open_rows.any():  # No later round changes anything.
            break
    return best


def each(weight: Tensor, hessian: Tensor, packed: PackedTensor) -> Tensor:
    error = packed.dequantise().double() - weight
    return ((error @ hessian) * error).sum(1)


def mixed(chosen: Tensor, one: PackedTensor, other: PackedTensor) -> PackedTensor:
    stored = {part: torch.where(chosen[:, None], one.stored[part], other.stored[part]) for part in one.stored}
    return PackedTensor(one.grid, torch.where(chosen[:, None], one.codes, other.codes), stored)


@cache
def plainly(name: str) -> tuple[PackedTensor, PackedTensor]:
    """Return a start on a grid, and what the plain descent makes of it."""
    weight, hessian = problem(5)
    start = gptq(weight, inverse_factor(hessian, "here"), GRIDS[name])
    return start, plain(weight, hessian, start)


@pytest.mark.parametrize("tile", [2**21, 1])
@pytest.mark.parametrize("grid", GRIDS.values(), ids=GRIDS)
def test_it_is_the_plain_descent(grid: Grid, tile: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(descent, "TILE", (tile, tile))
    monkeypatch.setattr(descent, "FEWEST", 4)
    weight, hessian = problem(5)
    start, wanted = plainly(grid.name)
    found = descend(weight, hessian, start).packed
    assert float((found.codes == wanted.codes).float().mean()) > 0.99
    assert loss(weight, hessian, found) == pytest.approx(loss(weight, hessian, wanted), rel=3e-3)


def test_its_start_is_left_as_it_was() -> None:
    weight, hessian = problem(1)
    start = gptq(weight, inverse_factor(hessian, "here"), GRIDS["Q4_0"])
    codes, scales = start.codes.clone(), start.stored["scales"].clone()
    descend(weight, hessian, start)
    assert torch.equal(start.codes, codes) and torch.equal(start.stored["scales"], scales)


@pytest.mark.parametrize("name", ["Q4_0", "Q4_K"])
def test_what_is_known_of_its_start_need_not_be_multiplied(name: str) -> None:
    """W* H and the losses of GPTQ's result, which GPTQ itself knows, lead to the same end."""
    weight, hessian = problem(6)
    rise = torch.empty(OUT)
    start = gptq(weight, inverse_factor(hessian, "here"), GRIDS[name], rise)
    torch.testing.assert_close(rise.double(), each(weight, hessian, start), rtol=1e-4, atol=0)
    found = descend(weight, hessian, start, weight.double() @ hessian, rise).packed
    wanted = descend(weight, hessian, start).packed
    assert float((found.codes == wanted.codes).float().mean()) > 0.99
    assert loss(weight, hessian, found) == pytest.approx(loss(weight, hessian, wanted), rel=1e-3)
