"""What a 4-bit group can hold.

A grid fixes the group length, how scales are stored and which codes exist. Calibration chooses codes and scales on the grid of
the file, scale rounding included, so that packing is a permutation of bits and loses nothing.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from epmq_export.errors import CalibrationError

# Candidate scales, as shares of the one that just reaches a group's largest weight: a smaller one trades a clipped outlier for finer
# steps elsewhere, a larger one puts a code where several weights are.
_SHARES = torch.linspace(0.5, 1.125, 26)


@dataclass(frozen=True)
class Grid:
    """Values d * q, with one float16 scale d a group of `group` consecutive inputs and integer codes lowest <= q <= highest.

    Q4_0 and Q8_0 of llama.cpp; ONNX's INT4 and INT8 with blocks. d may be negative: it puts the longer end of the range where the
    group's largest weight is. float32(d) * q is exact, so every runtime decodes the same bits.
    """

    name: str
    group: int
    lowest: int
    highest: int

    @property
    def bits(self) -> int:
        return (self.highest - self.lowest).bit_length()

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a [out, in] tensor divides into whole groups."""
        return len(shape) == 2 and shape[1] % self.group == 0

    def fit(self, weight: Tensor, importance: Tensor | None = None) -> Tensor:
        """Scales, float16 [out], for one group of weights [out, group].

        The candidate of least squared rounding error, weighted by `importance` [group] (the Hessian's diagonal) when given.
        An all-zero group gets scale 0; so does one whose scale would fall below float16's smallest number: its codes are then 0.
        """
        weight = weight.float()
        largest = weight.abs().amax(1)
        if not torch.isfinite(largest).all():
            raise CalibrationError(f"a weight is not finite, so no {self.name} scale fits it")
        if bool((largest / -self.lowest > torch.finfo(torch.float16).max).any()):
            raise CalibrationError(f"a weight of {float(largest.max()):.3g} is beyond the reach of a float16 {self.name} scale")
        best_scale = torch.zeros(len(weight), dtype=torch.float16, device=weight.device)
        best_error = torch.full((len(weight),), torch.inf, device=weight.device)
        # In place throughout: a group column of weights stays in the cache while all candidates pass over it.
        error = torch.empty_like(weight)
        for sign in (1.0, -1.0):
            for share in _SHARES.tolist():
                scale = (sign * share * largest / -self.lowest).half()
                torch.mul(weight, inverse(scale)[:, None], out=error)
                error.round_().clamp_(self.lowest, self.highest).mul_(scale.float()[:, None]).sub_(weight).square_()
                total = (error if importance is None else error.mul_(importance)).sum(1)
                better = total < best_error
                best_scale = torch.where(better, scale, best_scale)
                best_error = torch.where(better, total, best_error)
        return best_scale

    def encode(self, weight: Tensor, scales: Tensor) -> Tensor:
        """The nearest codes, int8, of weights under scales that broadcast to them; code 0 where the scale is 0."""
        return (weight * inverse(scales)).round_().clamp_(self.lowest, self.highest).to(torch.int8)

    def decode(self, codes: Tensor, scales: Tensor) -> Tensor:
        """float32 values; bit for bit what llama.cpp and ONNX Runtime decode."""
        return scales.float() * codes.float()

    def quantise(self, weight: Tensor, importance: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Round each weight of [out, in] to the nearest: codes int8 [out, in], scales float16 [out, in / group]."""
        groups = weight.reshape(-1, self.group)
        if importance is not None:
            importance = importance.reshape(-1, self.group).repeat(weight.shape[0], 1)
        scales = self.fit(groups, importance)
        codes = self.encode(groups, scales[:, None])
        return codes.reshape(weight.shape), scales.reshape(weight.shape[0], -1)

    def dequantise(self, codes: Tensor, scales: Tensor) -> Tensor:
        """float32 [out, in] of codes [out, in] and scales [out, in / group]."""
        out, width = codes.shape
        return self.decode(codes.reshape(out, -1, self.group), scales[:, :, None]).reshape(out, width)


def inverse(scales: Tensor) -> Tensor:
    """1 / scales in float32; 0 where the scale is 0, so that its codes are 0."""
    exact = scales.float()
    return exact.reciprocal().masked_fill_(exact == 0, 0.0)


GRIDS = {grid.name: grid for grid in (Grid("Q4_0", 32, -8, 7), Grid("Q8_0", 32, -127, 127))}
