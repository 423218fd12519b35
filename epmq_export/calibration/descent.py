"""A descent from GPTQ's result on the same quadratic: stored numbers and codes are improved in turn, and a
change is kept only where the loss falls.

Both steps lower L(Q) = tr((Q - W*) H (Q - W*)^T), row by row. A search that keeps several roundings of a row
(K-best) and another order of the columns were measured too: after these steps they gain nothing that is worth
their time (docs/method.md).
"""

import torch
from torch import Tensor

from epmq_export.calibration.rounding import LAZY
from epmq_export.tensors.packed import PackedTensor

# Another round follows only a relative fall of L by TOLERANCE or more. There are at most ROUNDS of them.
TOLERANCE, ROUNDS = 1e-3, 20
# The most numbers of the normal equations that are in memory at a time: on the processor, and on a GPU, which
# many small systems would keep waiting.
NUMBERS = (2**24, 2**27)


def descend(weight: Tensor, hessian: Tensor, start: PackedTensor) -> PackedTensor:
    """Return a rounding of W*, [out, in], under H, [in, in], on the same grid as `start`. Its loss is at most
    that of `start`.
    """
    weight, hessian = weight.float(), hessian.float()
    best, least = start, float(_losses(weight, hessian, start).sum())
    for _ in range(ROUNDS):
        refitted = _refit(weight, hessian, best)
        found = PackedTensor(best.grid, _recode(weight, hessian, refitted), refitted.stored)
        loss = float(_losses(weight, hessian, found).sum())
        if not loss < least:  # The steps lower the exact loss, but the noise of float32 sums may hide it.
            break
        done = least - loss < TOLERANCE * least
        best, least = found, loss
        if done:
            break
    return best


def _losses(weight: Tensor, hessian: Tensor, packed: PackedTensor) -> Tensor:
    """Return the loss of each row, float32 [out]."""
    error = packed.dequantise() - weight
    return ((error @ hessian) * error).sum(1)


def _refit(weight: Tensor, hessian: Tensor, packed: PackedTensor) -> PackedTensor:
    """Return the same codes under the steps and offsets of least loss, rounded to what the grid stores. A row
    changes only where its loss falls.
    """
    levels = packed.grid.level(packed.codes)
    unknowns = 2 * weight.shape[1] // packed.grid.subgroup
    size = max(NUMBERS[weight.device.type != "cpu"] // unknowns**2, 1)
    parts = [slice(start, start + size) for start in range(0, len(weight), size)]
    rounded = [packed.grid.round(*_wished(weight[rows], hessian, levels[rows], packed)) for rows in parts]
    stored = {part: torch.cat([each[part] for each in rounded]) for part in packed.stored}
    found = PackedTensor(packed.grid, packed.codes, stored)
    better = _losses(weight, hessian, found) < _losses(weight, hessian, packed)
    return PackedTensor(
        packed.grid,
        packed.codes,
        {part: torch.where(better[:, None], stored[part], kept) for part, kept in packed.stored.items()},
    )


def _wished(
    weight: Tensor, hessian: Tensor, levels: Tensor, packed: PackedTensor
) -> tuple[Tensor, Tensor | None]:
    """Return the step and the offset of every subgroup, [rows, subgroups], that minimise each row's loss: the
    solution of its normal equations.

    A row is sum_k step_k * levels_k (+ offset_k), which is linear in its unknowns. Each unknown touches the
    columns of one subgroup alone.
    """
    size = packed.grid.subgroup
    rows, count = len(weight), weight.shape[1] // size
    features = [levels]
    if packed.grid.steps(packed.stored)[1] is not None:
        features.append(torch.ones_like(levels))
    designs = [feature.reshape(rows, count, size) for feature in features]
    aim = (weight @ hessian).reshape(rows, count, size)
    right = torch.cat([(design * aim).sum(2) for design in designs], 1)
    normal = torch.empty(rows, right.shape[1], right.shape[1], device=weight.device)
    for k in range(right.shape[1]):
        columns = slice(k % count * size, (k % count + 1) * size)
        image = (designs[k // count][:, k % count] @ hessian[columns]).reshape(rows, count, size)
        normal[:, k] = torch.cat([(design * image).sum(2) for design in designs], 1)
    # Where the codes of a subgroup are all level 0, or all alike beside an offset, the equations do not
    # determine an unknown. The ridge sets it near 0.
    ridge = 1e-6 * normal.diagonal(dim1=1, dim2=2).mean(1, keepdim=True) + torch.finfo(torch.float32).tiny
    solved = torch.linalg.solve(normal + torch.diag_embed(ridge.expand_as(right)), right)
    return solved[:, :count], solved[:, count:] if len(designs) > 1 else None


def _recode(weight: Tensor, hessian: Tensor, packed: PackedTensor) -> Tensor:
    """Return codes, int8 [out, in], after one sweep over the columns. Each column takes the codes that are
    nearest to the values of least loss beside all other columns as they are.
    """
    grid = packed.grid
    step, offset = grid.steps(packed.stored)
    # Transposed, so that each column is contiguous in memory.
    values = packed.dequantise().T.contiguous()
    pull = hessian @ (values - weight.T)
    codes = torch.empty(values.shape, dtype=torch.int8, device=values.device)
    diagonal = hessian.diagonal()
    for start in range(0, len(values), LAZY):
        end = min(start + LAZY, len(values))
        changes = torch.empty_like(values[start:end])
        for j, change in enumerate(changes, start):
            k = j // grid.subgroup
            ours = None if offset is None else offset[:, k]
            codes[j] = grid.encode(values[j] - pull[j] / diagonal[j], step[:, k], ours)
            torch.sub(grid.decode(codes[j], step[:, k], ours), values[j], out=change)
            pull[start:end].addr_(hessian[start:end, j], change)
        pull.addmm_(hessian[:, start:end], changes)
        # The columns of this block have had its changes already, so they are taken back.
        pull[start:end].addmm_(hessian[start:end, start:end], changes, alpha=-1)
    return codes.T.contiguous()
