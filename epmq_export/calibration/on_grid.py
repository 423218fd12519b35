"""A weight that is trained on its grid: codes straight through their rounding (Bengio et al., arXiv
1308.3432), steps as in LSQ (arXiv 1902.08153).
"""

from typing import Any

import torch
from torch import Tensor, nn

from epmq_export.grids import Grid, Stored
from epmq_export.grids.grid import inverse
from epmq_export.tensors.packed import PackedTensor


class OnGrid(nn.Module):
    """A linear's weight that is rounded whenever it is used: its latent values [out, in] become codes under
    steps and offsets that the grid can store.

    K-quants keep their stored numbers and train codes alone, because the steps of one group depend on each
    other.
    """

    def __init__(self, packed: PackedTensor) -> None:
        super().__init__()
        self.grid = packed.grid
        self._kept = packed.stored if packed.grid.group > packed.grid.subgroup else None
        step, offset = packed.grid.steps(packed.stored)
        self.step = nn.Parameter(step.clone(), requires_grad=self._kept is None)
        self.offset = (
            None if offset is None else nn.Parameter(offset.clone(), requires_grad=self._kept is None)
        )

    @property
    def stored(self) -> Stored:
        with torch.no_grad():
            return self._kept or self.grid.round(self.step, self.offset)

    def forward(self, latent: Tensor) -> Tensor:
        given = (latent, self.step, self.offset, self.grid, self.stored)
        result: Tensor = _Round.apply(*given)  # type: ignore[no-untyped-call]
        return result

    def packed(self, latent: Tensor) -> PackedTensor:
        with torch.no_grad():
            stored = {part: value.clone() for part, value in self.stored.items()}
            codes, *_ = _codes(self.grid, latent, stored)
        return PackedTensor(self.grid, codes.reshape(latent.shape), stored)


class _Round(torch.autograd.Function):
    """The rounding of latent values to values on the grid, with a straight-through gradient: inside the range
    a change of a latent value changes its weight by as much.
    """

    @staticmethod
    def forward(
        context: Any,  # noqa: ANN401
        latent: Tensor,
        step: Tensor,
        offset: Tensor | None,
        grid: Grid,
        stored: Stored,
    ) -> Tensor:
        step, offset = _spread(*grid.steps(stored))
        rows = latent.reshape(len(latent), -1, grid.subgroup)
        ratio = rows * inverse(step) if offset is None else (rows - offset).mul_(inverse(step))
        # Codes are not needed for values, and what can be is computed in place: the weights of a whole model
        # pass here at every step.
        level = grid.nearest_level_(ratio.clone())
        values = step * level if offset is None else (step * level).add_(offset)
        # Values up to half a step past the last level are still rounded to it as to any other level.
        inside = (ratio > grid.levels[0] - 0.5).logical_and_(ratio < grid.levels[-1] + 0.5)
        context.save_for_backward(level.sub_(ratio.mul_(inside)), inside)
        return values.reshape(latent.shape)

    @staticmethod
    def backward(
        context: Any,  # noqa: ANN401 - torch's own
        *gradients: Tensor,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
        along, inside = context.saved_tensors
        gradient = gradients[0].reshape(inside.shape)
        step = (gradient * along).sum(2) if context.needs_input_grad[1] else None
        offset = (gradient * ~inside).sum(2) if context.needs_input_grad[2] else None
        return (gradient * inside).reshape(gradients[0].shape), step, offset, None, None


def _codes(grid: Grid, latent: Tensor, stored: Stored) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the codes [out, subgroups, subgroup], and the step and the offset in a shape that broadcasts to
    them.
    """
    step, offset = _spread(*grid.steps(stored))
    return grid.encode(latent.reshape(len(latent), -1, grid.subgroup), step, offset), step, offset


def _spread(step: Tensor, offset: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return steps and offsets in a shape that broadcasts to [out, subgroups, subgroup]."""
    return step[:, :, None], None if offset is None else offset[:, :, None]
