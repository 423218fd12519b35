"""The points of Q4_1 that the UINT4 of ONNX with a zero point can hold as well."""

from dataclasses import dataclass

import torch
from torch import Tensor

from epmq_export.grids.grid import Stored, inverse
from epmq_export.grids.search import BOTH_ENDS
from epmq_export.grids.shifted import Shifted

# The significant bits of d. A product with a zero point of 4 bits then fits the 11 of float16.
_SIGNIFICANT = 7


@dataclass(frozen=True)
class Zeroed(Shifted):
    """Values d (code - z), with z one of the codes and d not negative. They are stored as Q4_1 stores them: d
    and m = -d z, both exact in float16.

    d code + m and d (code - z) are the same float32, so that Q4_1 in GGUF and UINT4 in ONNX hold the same
    bits.
    """

    @property
    def file_type(self) -> str:
        return "Q4_1"

    def fit(self, weight: Tensor, importance: Tensor | None = None) -> Stored:
        # m = -d z may be longer than the largest weight: by both cuts and by the rounding of z and of d.
        self.require_reach(weight, 0.85)
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
        """Return the zero points, uint8 [rows, groups]."""
        return self._zero(stored["mins"].float() * inverse(stored["scales"])).to(torch.uint8)

    def _zero(self, ratio: Tensor) -> Tensor:
        return (-ratio).round().clamp(0, self.highest)


def _snap(step: Tensor) -> Tensor:
    """Return the nearest float16 number, not below 0, that has at most `_SIGNIFICANT` significant bits."""
    mantissa, exponent = torch.frexp(step.clamp_min(0))
    return torch.ldexp((mantissa * 2**_SIGNIFICANT).round() / 2**_SIGNIFICANT, exponent).half().float()
