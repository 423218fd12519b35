"""How far the anchor lies from the base."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from epmq_export.calibration.method import Method
from epmq_export.errors import CalibrationError
from epmq_export.models.blocks import linears
from epmq_export.models.family import Family
from epmq_export.tensors.source import TensorSource


def with_length(
    method: Method, family: Family, base: TensorSource, experts: Sequence[TensorSource], merged: TensorSource
) -> Method:
    """The method with rho as a number: "auto" is measured on all the family's linears together."""
    if method.rho != "auto":
        return method
    return replace(method, rho=anchor_rho(base, experts, merged, linears(family)))


def anchor_rho(
    base: TensorSource, experts: Sequence[TensorSource], merged: TensorSource, names: Iterable[str]
) -> float:
    """The rho that makes the anchor as long as the experts' distinct task vectors laid end to end:

        rho = sum_t r_t ||tau_t|| / ||W_m - W_0||        r_t = min(1, ||tau_t||^2 / <tau_t, sum_s tau_s>), 1
                                                         where the product is not above 0

    with tau_t = W_t - W_0 and products and Frobenius norms over the tensors of `names` together. Task vectors
    of different tasks are nearly orthogonal, so a merge is much shorter than what it sums, and where the
    calibration data are silent each expert keeps less than its own share; a longer anchor gives it back
    (docs/method.md has the measurements). r_t is 1 for a task vector that is orthogonal to the others; where
    k of them are one, 1/k: they count once. Free of the merge's own coefficient. 1 where the merge is the
    base.

    Every expert's tensor is read twice, one at a time.
    """
    squares, products = (torch.zeros(len(experts), dtype=torch.float64) for _ in range(2))
    length = 0.0
    for name in names:
        start = base.load(name).double()
        total = torch.zeros_like(start)
        for source in experts:
            total += source.load(name).double() - start
        for i, source in enumerate(experts):
            vector = source.load(name).double() - start
            squares[i] += vector.square().sum()
            products[i] += (vector * total).sum()
        length += float((merged.load(name).double() - start).square().sum())
    if not (bool(torch.isfinite(squares).all()) and math.isfinite(length)):
        raise CalibrationError(
            "the length of the task vectors is not finite; look for NaN or Inf in the checkpoints"
        )
    if not length > 0:
        return 1.0
    distinct = torch.where(products > squares, squares / products, 1.0)
    return float((distinct * squares.sqrt()).sum()) / math.sqrt(length)
