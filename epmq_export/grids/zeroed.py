"""The points of Q4_1 that ONNX's UINT4 with a zero point can hold as well."""

from dataclasses import dataclass

import torch
from torch import Tensor

from epmq_export.grids.grid import Stored, inverse
from epmq_export.grids.search import BOTH_ENDS
from epmq_export.grids.shifted import Shifted

# Of d: a product with a zero point of 4 bits then fits float16's 11 significant bits.
_SIGNIFICANT = 7


@dataclass(frozen=True)
class Zeroed(Shifted):
    """Values d (code - z), z one of the codes, stored as Q4_1 stores them: d and m = -d z, both exact in
    float16, d not negative.

    d code + m and d (code - z) are the same float32, so that GGUF's Q4_1 and ONNX's UINT4 hold the same bits.
    """

    @property
    def file_type(self) -> str:
        return "Q4_1"

    def fit(self, weight: Tensor, importance: Tensor | None = None) -> Stored:
        self.require_reach(
            weight, 0.85
        )  # m = -d z may be longer than the weight: by both cuts, the rounding of z and that of d
        weight = weight.float()
        importance = torch.ones_like(weight) if importance is None else importance
        lowest, highest = weight.amin(1).clamp_max(0), weight.amax(1).clamp_min(0)
        span = highest - lowest
        best_step, best_zero = torch.zeros_like(span), torch.zeros_like(span)
        least = torch.full_like(span, torch.inf)
        for low, high in BOTH_ENDS:
            rough = inverse(_snap(span * ((1 - low - high) / self.highest)))
            zero = self._zero((lowest + span * low) * rough)
            level = torch.minimum(
                torch.maximum((weight * rough[:, None]).round_(), -zero[:, None]),
                self.highest - zero[:, None],
            )
            step = _snap((weight * level * importance).sum(1) * inverse((level.square() * importance).sum(1)))
            error = ((level * step[:, None] - weight).square() * importance).sum(1)
            better = error < least
            best_step, best_zero = torch.where(better, step, best_step), torch.where(better, zero, best_zero)
            least = torch.where(better, error, least)
        return self.round(best_step[:, None], -(best_step * best_zero)[:, None])

    def round(self, step: Tensor, offset: Tensor | None = None) -> Stored:
        step = _snap(step)
        zero = torch.zeros_like(step) if offset is None else self._zero(offset * inverse(step))
        return {"scales": step.half(), "mins": (0.0 - step * zero).half()}

    def holds(self, stored: Stored) -> bool:
        again = self.round(stored["scales"].float(), stored["mins"].float())
        return all(torch.equal(again[part], stored[part]) for part in again)

    def zeros(self, stored: Stored) -> Tensor:
        """The zero points, uint8 [rows, groups]."""
        return self._zero(stored["mins"].float() * inverse(stored["scales"])).to(torch.uint8)

    def _zero(self, ratio: Tensor) -> Tensor:
        return (-ratio).round().clamp(0, self.highest)


def _snap(step: Tensor) -> Tensor:
    """The nearest number that has few enough significant bits and is a float16, not below 0."""
    mantissa, exponent = torch.frexp(step.clamp_min(0))
    return torch.ldexp((mantissa * 2**_SIGNIFICANT).round() / 2**_SIGNIFICANT, exponent).half().float()
