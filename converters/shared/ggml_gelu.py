"""GELU as ggml computes it on a CPU: through a table of float16 values, so that its input and its result are
rounded to half precision.
"""

from torch import Tensor, nn


class GatedGelu(nn.Module):
    """The tanh form of GELU, as in ggml's fused operation of a gated feed-forward part."""

    def forward(self, value: Tensor) -> Tensor:
        return nn.functional.gelu(value.half().float(), approximate="tanh").half().float()
