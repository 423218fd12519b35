"""The RMS norm of language models, in one module for all families, because each class of the library computes
it in its own way and has its own name for epsilon.
"""

import torch
from torch import Tensor, nn


class RmsNorm(nn.Module):
    """x / sqrt(mean(x^2) + eps) * (offset + weight), in float32, over the last axis (arXiv 1910.07467)."""

    def __init__(self, width: int, eps: float, offset: float = 0.0) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(width))
        self.eps, self.offset = eps, offset

    def forward(self, value: Tensor) -> Tensor:
        return self.normalised(value) * (self.offset + self.weight)

    def normalised(self, value: Tensor) -> Tensor:
        """Return the values before they are scaled, float32."""
        value = value.float()
        return value * torch.rsqrt(value.square().mean(-1, keepdim=True) + self.eps)

    def whole(self, weight: Tensor) -> Tensor:
        """Return the nearest weight that is the same bit for bit after the offset was added to it, as some
        files store it, and taken away again.
        """
        return weight.float() + self.offset - self.offset if self.offset else weight
