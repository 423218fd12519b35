"""TIES (arXiv 2306.01708): trim each task vector, elect a sign for each entry, average those that agree.

Trimming keeps an expert's largest `density` share of |task vector| over all its parameters flattened, as in the paper (where the density
differs by tensor, over all tensors of one density). An entry whose trimmed vectors cancel exactly takes the sign of the majority over all
parameters, as the authors' code does. Weights multiply the task vectors before the election and divide by those that agree, as
mergekit's; with equal weights that is the paper's mean.
"""

from collections.abc import Callable, Iterator
from functools import cache

import torch
from torch import Tensor

from epmq_export.merging.inputs import Inputs
from epmq_export.merging.threshold import kth_largest


def ties(inputs: Inputs) -> Callable[[str], Tensor]:
    @cache
    def threshold(index: int, density: float) -> float:
        """The smallest magnitude that an expert's trimming keeps; entries that equal it are all kept."""
        names = [name for name in inputs.floating() if inputs.density(index, name) == density]

        def magnitudes() -> Iterator[Tensor]:
            for name in names:
                yield inputs.task_vector(index, name, inputs.base(name)).abs_().flatten()

        size = sum(torch.Size(inputs.source.shape(name)).numel() for name in names)
        return kth_largest(magnitudes, int(density * size), size)

    def elect(tensor: str, base: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """By entry: the signed sum, and sums of values and of weights of those that are positive, and of those that are negative."""
        up, down, up_weight, down_weight = (torch.zeros_like(base) for _ in range(4))
        for index in range(len(inputs.experts)):
            smallest, weight = threshold(index, inputs.density(index, tensor)), inputs.weight(index, tensor)
            vector = inputs.task_vector(index, tensor, base)
            vector.masked_fill_(vector.abs() < smallest, 0.0)
            vector.mul_(weight)
            up.add_(vector.clamp(min=0))
            down.add_(vector.clamp(max=0))
            up_weight.add_(vector > 0, alpha=weight)
            down_weight.add_(vector < 0, alpha=weight)
        return up + down, up, down, up_weight, down_weight

    @cache
    def majority() -> float:
        """Sign of the sum of all elected signs."""
        return float(torch.tensor(sum(int(elect(name, inputs.base(name))[0].sign().sum(dtype=torch.float64)) for name in inputs.floating())).sign())

    def merge(tensor: str) -> Tensor:
        base = inputs.base(tensor)
        sign, up, down, up_weight, down_weight = elect(tensor, base)
        cancelled = (sign == 0) & (up != 0)
        if bool(cancelled.any()):
            sign = sign.masked_fill_(cancelled, majority())
        if inputs.settings.normalize:
            up.div_(up_weight.masked_fill_(up_weight == 0, 1.0))
            down.div_(down_weight.masked_fill_(down_weight == 0, 1.0))
        chosen = torch.where(sign > 0, up, torch.where(sign < 0, down, 0.0))
        return base.add_(chosen, alpha=inputs.scale(tensor))

    return merge
