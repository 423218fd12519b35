"""base + lambda * sum_i w_i (W_i - base) (arXiv 2212.04089); with `normalize`, the weighted mean of the task
vectors.
"""

import torch
from torch import Tensor

from epmq_export.merging.inputs import Inputs
from epmq_export.merging.rule import Merge, Rule, Sparsify
from epmq_export.merging.rules.linear import WEIGHT, divisor
from epmq_export.merging.settings import Number, flag

# The paper's 0.3, unless the recipe sets weights: they say the lengths of the task vectors already.
LAMBDA = Number(0.3, mergekit=1.0, weighted=1.0)


def added(inputs: Inputs, sparsify: Sparsify) -> Merge:
    """The weighted sum of what `sparsify` keeps of the task vectors."""

    def merge(tensor: str) -> Tensor:
        base = inputs.base(tensor)
        total = torch.zeros_like(base)
        weights = 0.0
        for index in range(len(inputs.experts)):
            weight = inputs.model_number(index, "weight", tensor)
            total.add_(sparsify(inputs.task_vector(index, tensor, base), index, tensor), alpha=weight)
            weights += weight
        scale = inputs.number("lambda", tensor) / (
            divisor(weights, tensor) if inputs.number("normalize", tensor) else 1.0
        )
        return base.add_(total, alpha=scale)

    return merge


def task_arithmetic(inputs: Inputs) -> Merge:
    return added(inputs, lambda vector, index, tensor: vector)


RULES = {
    "task_arithmetic": Rule(task_arithmetic, {"weight": WEIGHT, "lambda": LAMBDA, "normalize": flag(False)})
}
