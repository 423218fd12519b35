"""Grids of one float16 scale a group: Q2_0, Q4_0, IQ4_NL and Q8_0 of llama.cpp, and the block-wise UINT2,
INT4 and INT8 of ONNX.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from epmq_export.grids.grid import Grid, Part, Stored
from epmq_export.grids.search import fit_scale, to_half


@dataclass(frozen=True)
class Scaled(Grid):
    """Values d * level(code). d may be negative, which puts the longer end of the range on the side of the
    group's largest weight.

    float32(d) * level is exact, so every runtime decodes the same bits.
    """

    reaches: tuple[float, ...] = field(repr=False)
    """The candidates of the search: the levels, in steps of one, at which the largest weight of a group may
    stand.
    """

    @property
    def parts(self) -> Mapping[str, Part]:
        return {"scales": Part(torch.float16, 16)}

    def fit(self, weight: Tensor, importance: Tensor | None = None) -> Stored:
        """Return the scales that a search over `reaches` finds, as `Grid.fit` says. A group whose scale would
        be below the smallest float16 number gets scale 0.
        """
        self.require_reach(weight, max(-self.levels[0], self.levels[-1]))
        return self.round(fit_scale(self, weight.float(), importance, self.reaches, to_half)[:, None])

    def steps(self, stored: Stored) -> tuple[Tensor, None]:
        return stored["scales"].float(), None

    def round(self, step: Tensor, offset: Tensor | None = None) -> Stored:
        return {"scales": step.half()}
