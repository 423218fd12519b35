"""Grids of one float16 scale a group: Q4_0 and Q8_0 of llama.cpp, and ONNX's INT4 and INT8 in blocks."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from epmq_export.grids.grid import Grid, Part, Stored, inverse


@dataclass(frozen=True)
class Scaled(Grid):
    """Values d * level(code). d may be negative: it puts the longer end of the range where the group's largest weight is.

    float32(d) * level is exact, so every runtime decodes the same bits.
    """

    reaches: tuple[float, ...] = field(repr=False)
    """The search: levels, in steps of one, at which the largest weight of a group may stand."""

    @property
    def parts(self) -> Mapping[str, Part]:
        return {"scales": Part(torch.float16, 16)}

    def fit(self, weight: Tensor, importance: Tensor | None = None) -> Stored:
        """Each reach gives codes, these give the scale of least error, and the best of these scales is taken.

        An all-zero group gets scale 0; so does one whose scale would fall below float16's smallest number.
        """
        weight = weight.float()
        largest = weight.abs().amax(1)
        self.require_reach(largest, max(-self.levels[0], self.levels[-1]))
        best = torch.zeros(len(weight), dtype=torch.float16, device=weight.device)
        least = torch.full((len(weight),), torch.inf, device=weight.device)
        weighted = weight if importance is None else weight * importance
        # In place throughout: a group column of weights stays in the cache while all candidates pass over it.
        level, product = torch.empty_like(weight), torch.empty_like(weight)
        for reach in self.reaches:
            torch.mul(weight, inverse((largest / reach).half())[:, None], out=level)
            self.nearest_level_(level)
            along = torch.mul(weighted, level, out=product).sum(1)
            torch.mul(level, level, out=product)
            scale = (along * inverse((product if importance is None else product.mul_(importance)).sum(1))).half()
            error = level.mul_(scale.float()[:, None]).sub_(weight).square_()
            total = (error if importance is None else error.mul_(importance)).sum(1)
            better = total < least
            best = torch.where(better, scale, best)
            least = torch.where(better, total, least)
        return {"scales": best[:, None]}

    def steps(self, stored: Stored) -> tuple[Tensor, None]:
        return stored["scales"].float(), None

    def round(self, step: Tensor, offset: Tensor | None = None) -> Stored:
        return {"scales": step.half()}
