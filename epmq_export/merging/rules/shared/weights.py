"""Weights of models, and sums of them."""

from collections.abc import Sequence

from epmq_export.errors import SettingError
from epmq_export.merging.inputs import Inputs
from epmq_export.merging.settings import Number

WEIGHT = Number(1.0, by_model=True)


def summed(weights: Sequence[float]) -> float:
    """Return the sum of the models' weights, one after the other."""
    total = 0.0
    for weight in weights:  # `sum` is not used, because it rounds in another way from Python 3.12 on.
        total += weight
    return total


def require_divisible(inputs: Inputs) -> None:
    """Raise SettingError, with the key of the least weight, where a tensor is divided by a sum that is 0."""
    for tensor in inputs.floating():
        weights = inputs.model_numbers("weight", tensor)
        if inputs.number("normalize", tensor) and abs(total := summed(weights)) < 1e-8:
            raise SettingError(
                inputs.model_key(weights.index(min(weights)), "weight", tensor),
                f"the weights of {tensor} sum to {total}, which nothing can be divided by: set normalize to "
                "false, or other weights",
            )
