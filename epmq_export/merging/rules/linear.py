"""Weighted mean of the experts: sum w_i W_i / sum w_i (arXiv 2203.05482). The base takes part only where it
is listed among them.
"""

import torch
from torch import Tensor

from epmq_export.errors import RecipeError
from epmq_export.merging.inputs import Inputs
from epmq_export.merging.rule import Merge, Rule
from epmq_export.merging.settings import Number, flag

WEIGHT = Number(1.0, by_model=True)


def linear(inputs: Inputs) -> Merge:
    def merge(tensor: str) -> Tensor:
        total = torch.zeros(inputs.source.shape(tensor))
        weights = 0.0
        for index in range(len(inputs.experts)):
            weight = inputs.model_number(index, "weight", tensor)
            total.add_(inputs.expert(index, tensor), alpha=weight)
            weights += weight
        return total.div_(divisor(weights, tensor)) if inputs.number("normalize", tensor) else total

    return merge


def divisor(weights: float, tensor: str) -> float:
    """A sum of weights, to divide by; RecipeError where it is 0."""
    if abs(weights) < 1e-8:
        raise RecipeError(
            f"the weights of {tensor} sum to {weights}, which nothing can be divided by: set normalize to "
            "false, or other weights"
        )
    return weights


RULES = {"linear": Rule(linear, {"weight": WEIGHT, "normalize": flag(True)}, counts_base=True)}
