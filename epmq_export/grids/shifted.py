"""Grids of a float16 scale and a float16 minimum a group: Q4_1 of llama.cpp."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from epmq_export.grids.grid import Grid, Part, Stored
from epmq_export.grids.search import fit_affine, to_half


@dataclass(frozen=True)
class Shifted(Grid):
    """Values d * code + m. float32(d) * code is exact and the sum is rounded once, so every runtime decodes
    the same bits.
    """

    @property
    def parts(self) -> Mapping[str, Part]:
        return {"scales": Part(torch.float16, 16), "mins": Part(torch.float16, 16)}

    def fit(self, weight: Tensor, importance: Tensor | None = None) -> Stored:
        self.require_reach(weight, 1)
        step, offset = fit_affine(self, weight.float(), importance, to_half, to_half)
        return self.round(step[:, None], offset[:, None])

    def steps(self, stored: Stored) -> tuple[Tensor, Tensor]:
        return stored["scales"].float(), stored["mins"].float()

    def round(self, step: Tensor, offset: Tensor | None = None) -> Stored:
        return {"scales": step.half(), "mins": (torch.zeros_like(step) if offset is None else offset).half()}
