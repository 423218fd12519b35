"""Model Breadcrumbs (arXiv 2312.06795): drop the outliers and the small entries of a task vector, then do
task arithmetic or TIES.

The `gamma` share of a tensor's entries that is largest in magnitude is dropped. Of the others the largest
stay, as many as `density` says (the paper's 1 - gamma and 1 - beta). Where too few would be left, fewer of
the largest are dropped. The defaults are where the authors' own search starts. `breadcrumbs_ties` is
mergekit's combination with the election of TIES.
"""

import torch
from torch import Tensor

from epmq_export.merging.inputs import Inputs
from epmq_export.merging.rule import Merge, Rule, Sparsify
from epmq_export.merging.rules.shared.sparsity import match_l1, order
from epmq_export.merging.rules.shared.weights import WEIGHT
from epmq_export.merging.rules.task_arithmetic import LAMBDA, added
from epmq_export.merging.rules.ties import elected, positive_weights
from epmq_export.merging.settings import Number, flag


def thin(inputs: Inputs) -> Sparsify:
    """Return a function that drops the largest and the smallest entries of a tensor's task vector."""

    def sparsify(vector: Tensor, index: int, tensor: str) -> Tensor:
        density, size = inputs.model_number(index, "density", tensor), vector.numel()
        if density == 1:
            return vector
        largest = int(inputs.model_number(index, "gamma", tensor) * size)
        smallest = size - int(density * size) - largest
        if smallest < 0:
            largest, smallest = largest + smallest, 0
        places = order(inputs, vector.abs().flatten())
        mask = torch.zeros(size, dtype=torch.bool)
        mask[places[smallest : size - largest]] = True
        kept = vector * mask.reshape(vector.shape)
        return match_l1(kept, vector) if inputs.number("rescale", tensor) else kept

    return sparsify


def breadcrumbs(inputs: Inputs) -> Merge:
    return added(inputs, thin(inputs))


def breadcrumbs_ties(inputs: Inputs) -> Merge:
    return elected(inputs, thin(inputs))


_BOTH = {
    "weight": WEIGHT,
    "density": Number(0.15, mergekit=1.0, by_model=True, least=0, most=1),
    "gamma": Number(0.006, mergekit=0.01, by_model=True, least=0, most=1),
    "rescale": flag(False),
}
RULES = {
    "breadcrumbs": Rule(
        breadcrumbs,
        {**_BOTH, "lambda": LAMBDA, "normalize": flag(False)},
        cost="the largest and the small dropped, then a sum of task vectors",
    ),
    "breadcrumbs_ties": Rule(
        breadcrumbs_ties,
        {**_BOTH, "lambda": Number(1.0), "normalize": flag(True, mergekit=False)},
        cost="the largest and the small dropped, then signs and means",
        check=positive_weights,
    ),
}
