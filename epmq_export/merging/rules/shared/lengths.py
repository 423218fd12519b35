"""Lengths and products of whole tensors, summed in float64."""

import math

import torch
from torch import Tensor

from epmq_export.errors import InputError


def measured(tensor: str, value: float) -> float:
    """Return what was measured of a tensor by squares or products of its entries.

    Raises InputError, naming the tensor, where it is no finite number: a rule that went on would take the
    tensor for one of no direction.
    """
    if not math.isfinite(value):
        raise InputError(
            f"{tensor}: its values are so large that their squares are no finite float32, expected values "
            "below 1e18: look for outliers in the models"
        )
    return value


def dot(tensor: str, first: Tensor, second: Tensor) -> float:
    """Return the sum of the products of two models' entries of a tensor. Raises InputError as `measured`."""
    return measured(tensor, float((first * second).sum(dtype=torch.float64)))


def length(tensor: str, value: Tensor) -> float:
    """Return the Euclidean norm of a model's entries of a tensor. Raises InputError as `measured`."""
    return math.sqrt(dot(tensor, value, value))
