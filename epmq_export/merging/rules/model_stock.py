"""Model Stock (arXiv 2403.19522): between the base and the mean of N experts, as far as the experts agree.

    W = t mean_i W_i + (1 - t) W_0        t = N cos / (1 + (N - 1) cos)

`cos` is the cosine between the task vectors of a tensor, or of each of its rows under `filter_wise`; of more
than two experts, the mean over all pairs, as in mergekit, since the paper takes the angle to be one. A task
vector of zeros has the cosine 0 with the others. Pairs are read one after the other: N experts cost N (N + 1)
/ 2 readings of a tensor, and no more memory than two. Of adapters the factors are read.

mergekit's convention: the product of two lengths counts as 1e-6 where it is less, which brings the cosine of
short task vectors near 0.
"""

import logging

import torch
from torch import Tensor

from epmq_export.merging.inputs import Inputs
from epmq_export.merging.rule import Merge, Rule
from epmq_export.merging.rules.shared.lengths import measured
from epmq_export.merging.settings import flag
from epmq_export.tensors.low_rank import LowRank, row_products

log = logging.getLogger(__name__)
# The ratio has no value at a mean cosine of -1 / (N - 1), as two experts that point against each other have.
_SINGULAR = 1e-6


def model_stock(inputs: Inputs) -> Merge:
    count = len(inputs.experts)
    shortest = 1e-6 if inputs.mergekit else 0.0

    def merge(tensor: str) -> Tensor:
        base = inputs.base(tensor)
        if not base.numel():
            return base
        by_row = base.ndim > 1 and bool(inputs.number("filter_wise", tensor))

        def vector(index: int) -> Tensor | LowRank:
            """Return a task vector [rows, entries], as factors where they are known."""
            factors = inputs.low_rank(index, tensor, base) if base.ndim == 2 else None
            if factors is not None:
                return factors
            return inputs.task_vector(index, tensor, base).reshape(-1, base.shape[-1] if base.ndim else 1)

        mean, cosines = torch.zeros(1), torch.zeros(1, dtype=torch.float64)
        for index in range(count):
            first = vector(index)
            mean = mean + (first.dense() if isinstance(first, LowRank) else first) / count
            for other in range(index + 1, count):
                cosine = _cosine(tensor, first, vector(other), shortest, by_row)
                cosines = cosines + cosine / (count * (count - 1) / 2)
        divisor = 1 + (count - 1) * cosines
        singular = divisor.abs() < _SINGULAR
        if bool(singular.any()):
            log.warning(
                "model_stock: in %s the task vectors%s point against each other; the base is kept",
                tensor,
                " of some rows" if by_row else "",
            )
        ratio = torch.where(singular, 0.0, count * cosines / divisor.masked_fill(singular, 1.0))
        return base.add_((mean * ratio.float()[:, None]).reshape(base.shape))

    return merge


def _cosine(
    tensor: str, first: Tensor | LowRank, second: Tensor | LowRank, shortest: float, by_row: bool
) -> Tensor:
    """Return the cosine of two matrices, or of each row with the other's, float64 [1] or [rows]."""
    own, other, both = (
        row_products(*pair) if by_row else row_products(*pair).sum(0, keepdim=True)
        for pair in ((first, first), (second, second), (first, second))
    )
    product = (own.clamp(min=0).sqrt() * other.clamp(min=0).sqrt()).clamp(min=shortest)
    measured(tensor, float(product.max()))
    return (both / product.masked_fill(product == 0, 1.0)).clamp(-1, 1)


RULES = {
    "model_stock": Rule(
        model_stock,
        {"filter_wise": flag(False)},
        cost="a point between base and mean by the experts' angles",
        experts=(2, None),
    )
}
