"""DELLA (arXiv 2406.11617): DARE that drops large entries less often than small ones.

The entries in each row of a task vector are ranked by magnitude. The probability of being kept rises evenly
with the rank, from density - epsilon for the smallest to density + epsilon for the largest, and a kept entry
is divided by its own probability. A row runs along a tensor's second dimension; a tensor of one dimension is
one row. Then follow the election and the mean of TIES (`della`) or task arithmetic (`della_linear`).

Under mergekit's convention, the kept entries are lengthened to the L1 norm that the tensor's task vector had.
"""

import torch
from torch import Tensor

from epmq_export.errors import SettingError
from epmq_export.merging.inputs import Inputs
from epmq_export.merging.rule import Merge, Rule, Sparsify
from epmq_export.merging.rules.dare import by_rows
from epmq_export.merging.rules.shared.sparsity import DENSITY, SEED, match_l1, order
from epmq_export.merging.rules.shared.weights import WEIGHT
from epmq_export.merging.rules.task_arithmetic import LAMBDA, added
from epmq_export.merging.rules.ties import elected, positive_weights
from epmq_export.merging.settings import Number, flag


def probabilities(inputs: Inputs, vector: Tensor, density: float, epsilon: float) -> Tensor:
    """Return the probability that each entry is kept, float32, in the vector's shape.

    The later of two equal magnitudes ranks higher.
    """
    rows = vector.abs().reshape(1, -1) if vector.ndim < 2 else vector.abs().transpose(1, -1)
    if rows.shape[-1] < 2:
        return vector.new_full(vector.shape, density)
    width = rows.shape[-1]
    by_rank = (
        torch.arange(width, dtype=vector.dtype).div_(width - 1).mul_(2 * epsilon).add_(density - epsilon)
    )
    share = vector.new_empty(rows.shape).scatter_(-1, order(inputs, rows), by_rank.expand(rows.shape))
    return share.reshape(vector.shape) if vector.ndim < 2 else share.transpose(1, -1)


def drop_by_rank(inputs: Inputs) -> Sparsify:
    """Return a function that drops entries of a task vector by their rank.

    Raises SettingError where a probability would leave 0 to 1. A density of 0 or 1 needs no epsilon.
    """
    for index, model in enumerate(inputs.settings.models):
        for tensor in inputs.floating():
            density, epsilon = (
                inputs.model_number(index, "density", tensor),
                inputs.model_number(index, "epsilon", tensor),
            )
            if 0 < density < 1 and not epsilon < density < 1 - epsilon:
                raise SettingError(
                    inputs.model_key(index, "epsilon", tensor),
                    f"epsilon of {model.name} is {epsilon:g} for {tensor}, expected less than "
                    f"{min(density, 1 - density):g}: "
                    f"density {density:g} plus and minus epsilon are probabilities",
                )

    def sparsify(vector: Tensor, index: int, tensor: str) -> Tensor:
        density = inputs.model_number(index, "density", tensor)
        if density in (0, 1):
            return vector.mul_(density)
        share = probabilities(inputs, vector, density, inputs.model_number(index, "epsilon", tensor))
        kept = inputs.uniform(index, tensor).lt_(share).mul_(vector)
        if not inputs.number("rescale", tensor):
            return kept
        return match_l1(kept, vector) if inputs.mergekit else kept.div_(share)

    return sparsify


def della(inputs: Inputs) -> Merge:
    return elected(inputs, drop_by_rank(inputs))


def della_linear(inputs: Inputs) -> Merge:
    return added(inputs, drop_by_rank(inputs))


_BOTH = {
    "weight": WEIGHT,
    "density": DENSITY,
    "epsilon": Number(0.15, by_model=True, least=0, most=0.5),
    "rescale": flag(True),
    "seed": SEED,
}
RULES = {
    "della": Rule(
        della,
        {**_BOTH, "lambda": Number(1.0), "normalize": flag(True)},
        cost="random drops by size, then signs and means",
        by_rows=by_rows,
        check=positive_weights,
    ),
    "della_linear": Rule(
        della_linear,
        {**_BOTH, "lambda": LAMBDA, "normalize": flag(False)},
        cost="random drops by size, then a sum of task vectors",
        by_rows=by_rows,
    ),
}
