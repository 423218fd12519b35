"""Spherical linear interpolation of two models, as mergekit does it (Shoemake 1985, tensor by tensor).

It goes from the base to the one expert or, where there are two experts, from the first to the second:

    W = W_a sin((1 - t) angle) / sin(angle) + W_b sin(t angle) / sin(angle)

`angle` is the angle between the flattened tensors. Where they are nearly on a line (|cos| > 0.9995), W = (1 -
t) W_a + t W_b. A tensor of zeros counts as orthogonal to all others.
"""

import math

from torch import Tensor

from epmq_export.merging.inputs import Inputs
from epmq_export.merging.rule import Merge, Rule
from epmq_export.merging.rules.shared.lengths import dot, length
from epmq_export.merging.settings import Number

_LINE, _ZERO = 0.9995, 1e-8


def slerp(inputs: Inputs) -> Merge:
    def merge(tensor: str) -> Tensor:
        first = inputs.base(tensor) if len(inputs.experts) == 1 else inputs.expert(0, tensor)
        second = inputs.expert(len(inputs.experts) - 1, tensor)
        t = inputs.number("t", tensor)
        a, b = shares(t, cosine(tensor, first, second))
        return first.mul_(a).add_(second, alpha=b)

    return merge


def cosine(tensor: str, first: Tensor, second: Tensor) -> float:
    """Return the cosine of the angle between two models' flattened tensors; 0 where one is of zeros."""
    lengths = length(tensor, first), length(tensor, second)
    return dot(tensor, first, second) / (lengths[0] * lengths[1]) if min(lengths) > _ZERO else 0.0


def shares(t: float, cosine: float) -> tuple[float, float]:
    """Return the shares of the first and of the second tensor at `t` on the arc between them."""
    if abs(cosine) > _LINE:
        return 1 - t, t
    angle = math.acos(cosine)
    return math.sin((1 - t) * angle) / math.sin(angle), math.sin(t * angle) / math.sin(angle)


RULES = {"slerp": Rule(slerp, {"t": Number()}, cost="an arc between two models", experts=(1, 2))}
