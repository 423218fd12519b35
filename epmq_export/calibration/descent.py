"""A descent from GPTQ's result on the same quadratic: stored numbers and codes are improved in turn, and a
change is kept only where the loss falls.

Both steps lower L(Q) = tr((Q - W*) H (Q - W*)^T), row by row. A search that keeps several roundings of a row
(K-best) and another order of the columns were measured too: after these steps they gain nothing that is worth
their time (docs/method.md).
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from epmq_export.calibration.rounding import LAZY
from epmq_export.grids import Grid, Stored
from epmq_export.grids.grid import inverse
from epmq_export.tensors.packed import PackedTensor

# Another round follows for the rows whose L fell by this share or more. There are at most ROUNDS of them.
TOLERANCE, ROUNDS = 1e-3, 20
# The most numbers of a tile of rows, and of its normal equations, that are in memory at a time: on the
# processor, and on a GPU, which small tiles and many small systems would keep waiting.
TILE, NUMBERS = (2**21, 2**27), (2**24, 2**27)
# The fewest rows of a tile: below that the loop over the columns costs more than what it does.
FEWEST = 256


def descend(weight: Tensor, hessian: Tensor, start: PackedTensor) -> PackedTensor:
    """Return a rounding of W*, [out, in], under H, [in, in], on the same grid as `start`. Each row's loss is
    at most that of `start`.
    """
    hessian = hessian.float()
    size = max(TILE[weight.device.type != "cpu"] // weight.shape[1], FEWEST)
    parts = [
        _descend_tile(weight[rows].float(), hessian, start.rows(rows))
        for rows in (slice(first, first + size) for first in range(0, len(weight), size))
    ]
    return PackedTensor(
        start.grid,
        torch.cat([part.codes for part in parts]),
        {name: torch.cat([part.stored[name] for part in parts]) for name in start.stored},
    )


def _descend_tile(weight: Tensor, hessian: Tensor, best: PackedTensor) -> PackedTensor:
    """Descend from `best`, which is overwritten. Rows that no longer fall drop out."""
    rows = torch.arange(len(weight), device=weight.device)
    state = _State.start(weight, hessian, best)
    for _ in range(ROUNDS):
        found = _recoded(_refitted(state, hessian), hessian)
        # The steps lower the exact loss, but the noise of float32 sums may hide it.
        fall = state.loss - found.loss
        fallen = (fall > 0).nonzero()[:, 0]
        best.codes[rows[fallen]] = found.grid.codes(found.level[:, fallen].T.contiguous())
        for part, value in best.stored.items():
            value[rows[fallen]] = found.stored[part][fallen]
        left = ((fall > 0) & (fall >= TOLERANCE * state.loss)).nonzero()[:, 0]
        if not len(left):
            break
        state, rows = found.rows(left), rows[left]
    return best


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
    error: Tensor
    """Q - W*."""

    pull: Tensor
    """H (Q - W*), half the gradient."""

    loss: Tensor
    """L of each row, [rows]."""

    @classmethod
    def start(cls, weight: Tensor, hessian: Tensor, packed: PackedTensor) -> "_State":
        weight = weight.T.contiguous()
        error = packed.dequantise().T - weight
        pull = hessian @ error
        return cls(
            grid=packed.grid,
            weight=weight,
            aim=hessian @ weight,
            level=packed.grid.level(packed.codes).T.contiguous(),
            stored=packed.stored,
            error=error,
            pull=pull,
            loss=(error * pull).sum(0),
        )

    def rows(self, chosen: Tensor) -> "_State":
        """Return the state of some rows, by their indices, which rise."""
        if len(chosen) == len(self.loss):
            return self
        names = ("weight", "aim", "level", "error", "pull")
        return replace(
            self,
            **{name: getattr(self, name)[:, chosen] for name in names},
            stored={part: value[chosen] for part, value in self.stored.items()},
            loss=self.loss[chosen],
        )

    def values(self, stored: Stored) -> Tensor:
        """Return the values of the levels under stored numbers, [in, rows]."""
        step, offset = _columns(self.grid, stored)
        spread = self.level.reshape(len(step), -1, len(self.loss)) * step[:, None]
        return (spread if offset is None else spread.add_(offset[:, None])).reshape(self.level.shape)


def _columns(grid: Grid, stored: Stored) -> tuple[Tensor, Tensor | None]:
    """Return step and offset of each subgroup, [subgroups, rows]."""
    step, offset = grid.steps(stored)
    return step.T.contiguous(), None if offset is None else offset.T.contiguous()


def _refitted(state: _State, hessian: Tensor) -> _State:
    """Return the same codes under the steps and offsets of least loss, rounded to what the grid stores. A row
    changes only where its loss falls.
    """
    shifted = state.grid.steps(state.stored)[1] is not None
    stored = state.grid.round(*_wished(state.aim, hessian, state.level, state.grid.subgroup, shifted))
    error = state.values(stored).sub_(state.weight)
    pull = hessian @ error
    loss = (error * pull).sum(0)
    better = loss < state.loss
    return replace(
        state,
        stored={
            part: torch.where(better[:, None], stored[part], kept) for part, kept in state.stored.items()
        },
        error=torch.where(better, error, state.error),
        pull=torch.where(better, pull, state.pull),
        loss=torch.where(better, loss, state.loss),
    )


def _wished(
    aim: Tensor, hessian: Tensor, level: Tensor, size: int, shifted: bool
) -> tuple[Tensor, Tensor | None]:
    """Return the step and, where the grid is `shifted`, the offset of every subgroup of `size` columns,
    [rows, subgroups], that minimise each row's loss: the solution of its normal equations.

    A row is sum_k step_k * level_k (+ offset_k), which is linear in its unknowns. Each unknown touches the
    columns of one subgroup alone. `aim` and `level` are [in, rows].
    """
    count = len(level) // size
    designs = [level, torch.ones_like(level)] if shifted else [level]
    most = max(NUMBERS[aim.device.type != "cpu"] // (len(designs) * count) ** 2, 1)
    parts = [slice(start, start + most) for start in range(0, aim.shape[1], most)]
    solved = torch.cat(
        [_solved([design[:, rows] for design in designs], hessian, aim[:, rows], count) for rows in parts]
    )
    return solved[:, :count], solved[:, count:] if shifted else None


def _solved(designs: list[Tensor], hessian: Tensor, aim: Tensor, count: int) -> Tensor:
    """Return the unknowns, [rows, unknowns], of normal equations with `count` of them in each design."""
    width, rows = aim.shape
    size = width // count
    right = torch.cat([(design * aim).reshape(count, size, rows).sum(1) for design in designs])
    unknowns = len(right)
    normal = torch.empty(unknowns, unknowns, rows, device=aim.device)
    for k in range(count):
        columns = slice(k * size, width)
        for one, design in enumerate(designs):
            # H is symmetric, so the columns before these have met them already.
            image = hessian[columns, k * size : (k + 1) * size] @ design[k * size : (k + 1) * size]
            for other, against in enumerate(designs):
                met = (against[columns] * image).reshape(count - k, size, rows).sum(1)
                normal[one * count + k, other * count + k : (other + 1) * count] = met
                normal[other * count + k : (other + 1) * count, one * count + k] = met
    # Where the codes of a subgroup are all level 0, or all alike beside an offset, the equations do not
    # determine an unknown. The ridge sets it near 0.
    diagonal = normal.diagonal()
    diagonal += 1e-6 * diagonal.mean(1, keepdim=True) + torch.finfo(torch.float32).tiny
    solved: Tensor = torch.linalg.solve(normal.permute(2, 0, 1), right.T)
    return solved


def _recoded(state: _State, hessian: Tensor) -> _State:
    """Return other codes, after one sweep over the columns. Each column takes the codes that are nearest to
    the values of least loss beside all other columns as they are.
    """
    size = state.grid.subgroup
    step, offset = _columns(state.grid, state.stored)
    values, pull, level = state.weight + state.error, state.pull.clone(), torch.empty_like(state.level)
    by = hessian.diagonal().reciprocal().neg().cpu().tolist()
    for start in range(0, len(values), max(LAZY, size)):
        end = min(start + max(LAZY, size), len(values))
        near, changes = pull[start:end].clone(), torch.empty_like(values[start:end])
        for first in range(start, end, size):
            within, k = slice(first - start, first - start + size), first // size
            last = first + size
            _walk(
                values[first:last],
                near[within],
                hessian[first:last, first:last],
                by[first:last],
                state.grid,
                (step[k], None if offset is None else offset[k]),
                (level[first:last], changes[within]),
            )
            near[last - start :].addmm_(hessian[last:end, first:last], changes[within])
        pull.addmm_(hessian[:, start:end], changes)
    found = replace(state, level=level, pull=pull)
    found.error = found.values(state.stored).sub_(state.weight)
    found.loss = (found.error * pull).sum(0)
    return found


def _walk(
    values: Tensor,
    pull: Tensor,
    hessian: Tensor,
    by: list[float],
    grid: Grid,
    under: tuple[Tensor, Tensor | None],
    out: tuple[Tensor, Tensor],
) -> None:
    """Sweep over the columns of one subgroup, [subgroup, rows], under its step and offset. `pull` is
    overwritten; the levels and the changes of the values go into `out`.
    """
    step, offset = under
    ratio = inverse(step)
    for j, (value, level, change) in enumerate(zip(values, *out, strict=True)):
        torch.add(value, pull[j], alpha=by[j], out=level)
        grid.nearest_level_((level if offset is None else level.sub_(offset)).mul_(ratio))
        torch.mul(step, level, out=change)
        (change if offset is None else change.add_(offset)).sub_(value)
        pull[j + 1 :].addr_(hessian[j, j + 1 :], change)
