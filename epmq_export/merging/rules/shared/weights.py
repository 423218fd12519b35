"""Weights of models, and sums of them."""

from collections.abc import Sequence

from epmq_export.errors import SettingError
from epmq_export.merging.inputs import Inputs
from epmq_export.merging.settings import Number

WEIGHT = Number(1.0, by_model=True)


def divisor(inputs: Inputs, weights: Sequence[float], tensor: str) -> float:
    """Return the sum of the models' weights, to divide by.

    SettingError where it is 0, with the key of the least of them.
    """
    total = 0.0
    for weight in weights:  # not `sum`, which rounds otherwise from Python 3.12 on
        total += weight
    if abs(total) < 1e-8:
        raise SettingError(
            inputs.model_key(weights.index(min(weights)), "weight", tensor),
            f"the weights of {tensor} sum to {total}, which nothing can be divided by: set normalize to "
            "false, or other weights",
        )
    return total
