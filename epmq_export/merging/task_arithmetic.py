"""base + lambda * sum_i w_i (W_i - base) (arXiv 2212.04089); with `normalize`, the weighted mean of the task vectors."""

from collections.abc import Callable

import torch
from torch import Tensor

from epmq_export.merging.inputs import Inputs
from epmq_export.merging.linear import divisor


def task_arithmetic(inputs: Inputs) -> Callable[[str], Tensor]:
    def merge(tensor: str) -> Tensor:
        base = inputs.base(tensor)
        total = torch.zeros_like(base)
        weights = 0.0
        for index in range(len(inputs.experts)):
            weight = inputs.weight(index, tensor)
            total.add_(inputs.task_vector(index, tensor, base), alpha=weight)
            weights += weight
        scale = inputs.scale(tensor) / (divisor(weights, tensor) if inputs.settings.normalize else 1.0)
        return base.add_(total, alpha=scale)

    return merge
