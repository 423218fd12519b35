"""Lengths and products of whole tensors, summed in float64."""

import math

import torch
from torch import Tensor


def dot(first: Tensor, second: Tensor) -> float:
    """Return the sum of the products of two tensors' entries."""
    return float((first * second).sum(dtype=torch.float64))


def length(tensor: Tensor) -> float:
    """Return the Euclidean norm of a tensor, flattened."""
    return math.sqrt(dot(tensor, tensor))
