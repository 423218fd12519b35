"""Lengths and angles of whole tensors, summed in float64."""

import math

import torch
from torch import Tensor


def dot(first: Tensor, second: Tensor) -> float:
    return float((first * second).sum(dtype=torch.float64))


def length(tensor: Tensor) -> float:
    return math.sqrt(dot(tensor, tensor))
