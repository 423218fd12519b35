"""Task arithmetic: base + lambda * sum_i w_i (W_i - base) (arXiv 2212.04089).

With `normalize`, the sum is divided by the sum of the weights.
"""

import torch
from torch import Tensor

from epmq_export.merging.inputs import Inputs
from epmq_export.merging.rule import Merge, Rule, Sparsify
from epmq_export.merging.rules.shared.weights import WEIGHT, require_divisible, summed
from epmq_export.merging.settings import Number, flag

# The default is the paper's 0.3. Where a recipe sets weights it is 1: they already give the lengths.
LAMBDA = Number(0.3, mergekit=1.0, weighted=1.0)


def added(inputs: Inputs, sparsify: Sparsify) -> Merge:
    """Return task arithmetic with what `sparsify` keeps of the task vectors.

    Raises SettingError where the weights that it divides by sum to 0.
    """
    require_divisible(inputs)

    def merge(tensor: str) -> Tensor:
        base = inputs.base(tensor)
        total = torch.zeros_like(base)
        weights = inputs.model_numbers("weight", tensor)
        for index, weight in enumerate(weights):
            total.add_(sparsify(inputs.task_vector(index, tensor, base), index, tensor), alpha=weight)
        scale = inputs.number("lambda", tensor) / (
            summed(weights) if inputs.number("normalize", tensor) else 1.0
        )
        return base.add_(total, alpha=scale)

    return merge


def task_arithmetic(inputs: Inputs) -> Merge:
    return added(inputs, lambda vector, index, tensor: vector)


RULES = {
    "task_arithmetic": Rule(
        task_arithmetic,
        {"weight": WEIGHT, "lambda": LAMBDA, "normalize": flag(False)},
        cost="a sum of task vectors, read tensor by tensor",
        by_rows=lambda settings: True,
    )
}
