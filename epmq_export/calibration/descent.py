"""A descent from GPTQ's result on the same quadratic: stored numbers and codes are improved in turn, and a
change is kept only where the loss falls.

Both steps lower L(Q) = tr((Q - W*) H (Q - W*)^T), row by row. A search that keeps several roundings of a row
(K-best) and another order of the columns were measured too: after these steps they gain nothing that is worth
their time (docs/method.md).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from epmq_export.calibration.one_thread import one_thread
from epmq_export.calibration.rounding import LAZY, sweep
from epmq_export.calibration.solver import quadratic
from epmq_export.grids import Grid, Stored
from epmq_export.grids.grid import inverse
from epmq_export.tensors.packed import PackedTensor

# Another round follows for the rows whose L fell by this share or more: a third of it takes nearly twice the
# time and lowers what rounding loses by a two-thousandth. There are at most ROUNDS of them: more would be for
# few rows, at nearly the cost of all, and lower L by less than a ten-thousandth.
TOLERANCE, ROUNDS = 3e-3, 8
# The most numbers of a tile of rows, and of its normal equations, that are in memory at a time: on the
# processor, and on a GPU, which small tiles and many small systems would keep waiting.
TILE, NUMBERS = (2**21, 2**27), (2**21, 2**27)
# The fewest rows of a tile: below that the loop over the columns costs more than what it does.
FEWEST = 256


@dataclass(frozen=True)
class Descent:
    """What a descent has found."""

    packed: PackedTensor
    rise: Tensor
    """L of each row, float32 [out]."""


def descend(
    weight: Tensor,
    hessian: Tensor,
    start: PackedTensor,
    aim: Tensor | None = None,
    rise: Tensor | None = None,
) -> Descent:
    """Return a rounding of W*, [out, in], under H, [in, in], on the same grid as `start`. Each row's loss is
    at most that of `start`.

    What is known already need not be multiplied: W* H, `aim`, [out, in], and L of each row of `start`,
    `rise`, float32 [out].
    """
    hessian = hessian.float()
    size = max(TILE[weight.device.type != "cpu"] // weight.shape[1], FEWEST)
    parts = []
    for first in range(0, len(weight), size):
        rows = slice(first, first + size)
        known = [None if each is None else each[rows].float() for each in (aim, rise)]
        best = start.rows(rows)
        with one_thread():
            state = _State.start(weight[rows].float(), hessian, best, *known)
            parts.append(_descend_tile(state, hessian, best))
    packed = PackedTensor(
        start.grid,
        torch.cat([part.packed.codes for part in parts]),
        {name: torch.cat([part.packed.stored[name] for part in parts]) for name in start.stored},
    )
    return Descent(packed, torch.cat([part.rise for part in parts]))


def _descend_tile(state: "_State", hessian: Tensor, best: PackedTensor) -> Descent:
    """Descend from `best`, whose state is given, and which is overwritten. Rows that no longer fall drop
    out.
    """
    rows = torch.arange(len(state.loss), device=state.loss.device)
    rise = state.loss.clone()
    for _ in range(ROUNDS):
        found = _recoded(_refitted(state, hessian), hessian)
        # The steps lower the exact loss, but the noise of float32 sums may hide it.
        fall = state.loss - found.loss
        fallen = (fall > 0).nonzero()[:, 0]
        best.codes[rows[fallen]] = found.grid.codes(found.level[:, fallen].T.contiguous())
        for part, value in best.stored.items():
            value[rows[fallen]] = found.stored[part][fallen]
        rise[rows[fallen]] = found.loss[fallen]
        left = ((fall > 0) & (fall >= TOLERANCE * state.loss)).nonzero()[:, 0]
        if not len(left):
            break
        state, rows = found.rows(left), rows[left]
    return Descent(best, rise)


@dataclass
class _State:
    """A rounding of some rows of W*. Tensors of its weights are transposed, [in, rows], so that each column
    is contiguous in memory.
    """

    grid: Grid
    weight: Tensor
    """W*."""

    aim: Tensor
    """H W*."""

    level: Tensor
    """The levels of the codes, float32."""

    stored: Stored
    loss: Tensor
    """L of each row, [rows]: summed up at the start, and then followed by what each change adds to it."""

    @classmethod
    def start(
        cls,
        weight: Tensor,
        hessian: Tensor,
        packed: PackedTensor,
        aim: Tensor | None = None,
        loss: Tensor | None = None,
    ) -> "_State":
        columns = weight.T.contiguous()
        if loss is None:
            loss = quadratic(packed.dequantise().sub_(weight), hessian).float()
        return cls(
            grid=packed.grid,
            weight=columns,
            aim=hessian @ columns if aim is None else aim.T.contiguous(),
            level=packed.grid.level(packed.codes).T.contiguous(),
            stored=packed.stored,
            loss=loss,
        )

    def rows(self, chosen: Tensor) -> "_State":
        """Return the state of some rows, by their indices, which rise."""
        if len(chosen) == len(self.loss):
            return self
        return replace(
            self,
            **{name: getattr(self, name)[:, chosen] for name in ("weight", "aim", "level")},
            stored={part: value[chosen] for part, value in self.stored.items()},
            loss=self.loss[chosen],
        )

    def error(self) -> Tensor:
        """Return Q - W*, [in, rows]."""
        step, offset = _columns(self.grid, self.stored)
        values = self.level.reshape(len(step), -1, len(self.loss)) * step[:, None]
        values = values if offset is None else values.add_(offset[:, None])
        return values.reshape(self.level.shape).sub_(self.weight)


def _columns(grid: Grid, stored: Stored) -> tuple[Tensor, Tensor | None]:
    """Return step and offset of each subgroup, [subgroups, rows]."""
    step, offset = grid.steps(stored)
    return step.T.contiguous(), None if offset is None else offset.T.contiguous()


def _unknowns(grid: Grid, stored: Stored) -> Tensor:
    """Return the steps of all subgroups and then, where the grid has them, the offsets, [unknowns, rows]."""
    step, offset = _columns(grid, stored)
    return step if offset is None else torch.cat([step, offset])


def _refitted(state: _State, hessian: Tensor) -> _State:
    """Return the same codes under the steps and offsets of least loss, rounded to what the grid stores. A row
    changes only where its loss falls.
    """
    kept = _unknowns(state.grid, state.stored)
    most = max(NUMBERS[kept.device.type != "cpu"] // len(kept) ** 2, 1)
    parts = [slice(start, start + most) for start in range(0, kept.shape[1], most)]
    found = [_refitted_rows(state, rows, kept[:, rows], hessian) for rows in parts]
    rise = torch.cat([rise for _, rise in found])
    better = rise < 0
    stored = {
        part: torch.where(better[:, None], torch.cat([stored[part] for stored, _ in found]), value)
        for part, value in state.stored.items()
    }
    return replace(state, stored=stored, loss=torch.where(better, state.loss + rise, state.loss))


def _refitted_rows(state: _State, rows: slice, kept: Tensor, hessian: Tensor) -> tuple[Stored, Tensor]:
    """Return the stored numbers of some rows that come nearest to those of least loss, and what they add to
    the loss of each row in place of those that are `kept`, [unknowns, rows].
    """
    shifted = len(kept) > len(state.level) // state.grid.subgroup
    normal, right = _equations(
        state.aim[:, rows], hessian, state.level[:, rows], state.grid.subgroup, shifted
    )
    stored = state.grid.round(*_wished(normal, right, kept, shifted))
    found = _unknowns(state.grid, stored)
    # L is s^T M s - 2 r^T s beside a constant. The difference of two sets of numbers is computed as one
    # product with their difference, which has no large parts that cancel.
    both = found + kept
    image = torch.stack([(row * both).sum(0) for row in normal]).sub_(right, alpha=2)
    return stored, (image * (found - kept)).sum(0)


def _wished(normal: Tensor, right: Tensor, kept: Tensor, shifted: bool) -> tuple[Tensor, Tensor | None]:
    """Return the step and, where the grid is `shifted`, the offset of every subgroup, [rows, subgroups], that
    minimise each row's loss: the solution of its normal equations, or those that are `kept`, [unknowns,
    rows], where rounding errors leave the row's matrix not positive.
    """
    # Where the codes of a subgroup are all level 0, or all alike beside an offset, the equations do not
    # determine an unknown. The ridge sets it near 0.
    diagonal = normal.diagonal()
    ridge = 1e-6 * diagonal.mean(1, keepdim=True) + torch.finfo(torch.float32).tiny
    diagonal += ridge
    # Not torch.linalg.solve: of torch 2.13 its LU decompositions of many matrices of 150 rows or more on
    # several threads have wrong pivots, or never end.
    systems = normal.flatten(0, 1).T.contiguous().reshape(-1, *normal.shape[:2])
    lower, failed = torch.linalg.cholesky_ex(systems)
    solved = torch.cholesky_solve(right.T[:, :, None], lower)[:, :, 0]
    solved = torch.where(failed[:, None] == 0, solved, kept.T)
    diagonal -= ridge
    count = solved.shape[1] // 2 if shifted else solved.shape[1]
    return solved[:, :count], solved[:, count:] if shifted else None


def _equations(
    aim: Tensor, hessian: Tensor, level: Tensor, size: int, shifted: bool
) -> tuple[Tensor, Tensor]:
    """Return the normal equations of each row for the steps and, where the grid is `shifted`, the offsets of
    its subgroups of `size` columns: M, [unknowns, unknowns, rows], and r, [unknowns, rows].

    A row is sum_k step_k * level_k (+ offset_k), which is linear in its unknowns. Each unknown touches the
    columns of one subgroup alone. `aim` and `level` are [in, rows].
    """
    width, rows = aim.shape
    count = width // size
    designs = [level, torch.ones_like(level)] if shifted else [level]
    right = torch.cat([(design * aim).reshape(count, size, rows).sum(1) for design in designs])
    unknowns = len(right)
    normal = torch.empty(unknowns, unknowns, rows, device=aim.device)
    images = torch.empty_like(level)
    for k in range(count):
        here, image = slice(k * size, (k + 1) * size), images[k * size :]
        for one, design in enumerate(designs):
            # H is symmetric, so the columns before these have met them already.
            torch.mm(hessian[here, k * size :].T, design[here], out=image)
            for other, against in enumerate(designs):
                # The image is overwritten by the last that it meets.
                into = image if against is designs[-1] else None
                met = torch.mul(against[k * size :], image, out=into).reshape(count - k, size, rows).sum(1)
                normal[one * count + k, other * count + k : (other + 1) * count] = met
                normal[other * count + k : (other + 1) * count, one * count + k] = met
    return normal, right


def _recoded(state: _State, hessian: Tensor) -> _State:
    """Return other codes, after one sweep over the columns. Each column takes the codes that are nearest to
    the values of least loss beside all other columns as they are.
    """
    size = state.grid.subgroup
    step, offset = _columns(state.grid, state.stored)
    error, level, loss = state.error(), torch.empty_like(state.level), state.loss.clone()
    block, rest = max(LAZY, size), min(state.grid.levels, key=abs)
    dead = step == 0
    alive = (~dead).float()
    for start in range(0, len(level), block):
        end = min(start + block, len(level))
        # Half the gradient in these columns, H (Q - W*), beside all changes before them.
        pull, changes = hessian[start:end] @ error, torch.empty_like(error[start:end])
        for first in range(start, end, size):
            last, k = first + size, first // size
            here, within = slice(first, last), slice(first - start, last - start)
            # Where the step is 0 all values are the offset: there the level is the one nearest to 0.
            old = state.level[here].masked_fill(dead[k], rest) if rest else state.level[here] * alive[k]
            ratio, own, change = inverse(step[k]), hessian[here, here], changes[within]
            least = own.diagonal()[:, None]
            # Where each value has its least loss, in steps.
            place = (pull[within] * ratio).div_(least).neg_().add_(old)
            sweep(place, old, own / least.T, state.grid, (level[here], change))
            torch.mul(step[k], level[here], out=change)
            (change if offset is None else change.add_(offset[k])).sub_(state.weight[here])
            change.sub_(error[here])
            error[here] += change
            loss += (change * (own @ change).add_(pull[within], alpha=2)).sum(0)
            pull[last - start :].addmm_(hessian[last:end, here], change)
    return replace(state, level=level, loss=loss)
