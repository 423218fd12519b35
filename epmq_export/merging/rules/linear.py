"""Weighted mean of the experts: sum w_i W_i / sum w_i (arXiv 2203.05482).

The base takes part only where it is listed among them.
"""

import torch
from torch import Tensor

from epmq_export.merging.inputs import Inputs
from epmq_export.merging.rule import Merge, Rule
from epmq_export.merging.rules.shared.weights import WEIGHT, require_divisible, summed
from epmq_export.merging.settings import flag


def linear(inputs: Inputs) -> Merge:
    require_divisible(inputs)

    def merge(tensor: str) -> Tensor:
        total = torch.zeros(inputs.shape(tensor))
        weights = inputs.model_numbers("weight", tensor)
        for index, weight in enumerate(weights):
            total.add_(inputs.expert(index, tensor), alpha=weight)
        return total.div_(summed(weights)) if inputs.number("normalize", tensor) else total

    return merge


RULES = {
    "linear": Rule(
        linear,
        {"weight": WEIGHT, "normalize": flag(True)},
        cost="a weighted mean, read tensor by tensor",
        by_rows=lambda settings: True,
        counts_base=True,
    )
}
