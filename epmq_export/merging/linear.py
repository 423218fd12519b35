"""Weighted mean of the experts: sum w_i W_i / sum w_i. The base takes part only where it is listed among them."""

from collections.abc import Callable

import torch
from torch import Tensor

from epmq_export.errors import RecipeError
from epmq_export.merging.inputs import Inputs


def linear(inputs: Inputs) -> Callable[[str], Tensor]:
    def merge(tensor: str) -> Tensor:
        total = torch.zeros(inputs.source.shape(tensor))
        weights = 0.0
        for index in range(len(inputs.experts)):
            weight = inputs.weight(index, tensor)
            total.add_(inputs.expert(index, tensor), alpha=weight)
            weights += weight
        return total.div_(divisor(weights, tensor)) if inputs.settings.normalize else total

    return merge


def divisor(weights: float, tensor: str) -> float:
    """A sum of weights, to divide by; RecipeError where it is 0."""
    if abs(weights) < 1e-8:
        raise RecipeError(f"the weights of {tensor} sum to {weights}, which nothing can be divided by: set normalize to false, or other weights")
    return weights
