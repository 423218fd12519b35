"""The length of the anchor: how far it lies from the base along the way to the merged model."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from epmq_export.calibration.method import Method
from epmq_export.errors import CalibrationError
from epmq_export.models.blocks import linears
from epmq_export.models.family import Family
from epmq_export.tensors.source import TensorSource

CPU = torch.device("cpu")


def with_length(
    method: Method,
    family: Family,
    base: TensorSource,
    experts: Sequence[TensorSource],
    merged: TensorSource,
    device: torch.device = CPU,
) -> Method:
    """Return the method with rho as a number. "auto" is measured on all linears of the family together, on
    the device.
    """
    if method.rho != "auto":
        return method
    return replace(method, rho=anchor_rho(base, experts, merged, linears(family), device))


def anchor_rho(
    base: TensorSource,
    experts: Sequence[TensorSource],
    merged: TensorSource,
    names: Iterable[str],
    device: torch.device = CPU,
) -> float:
    """Return the rho that makes the anchor as long as the distinct task vectors of the experts laid end to
    end:

        rho = sum_t r_t ||tau_t|| / ||W_m - W_0||
        r_t = min(1, ||tau_t||^2 / <tau_t, sum_s tau_s>), and 1 where that product is not above 0

    Here tau_t = W_t - W_0, and products and Frobenius norms run over the tensors of `names` together. Task
    vectors of different tasks are nearly orthogonal, so a merge is much shorter than the sum of their
    lengths, and where the calibration data say nothing each expert keeps less than its own share. A longer
    anchor gives it back (docs/method.md has the measurements). r_t is 1 for a task vector that is orthogonal
    to the others, and 1/k for each of k equal ones, so that these count once. rho does not depend on the
    merge's own coefficient. It is 1 where the merge is the base.

    Every tensor of an expert is read twice, one at a time. Raises CalibrationError where the lengths are not
    finite.
    """
    squares, products, length = (
        torch.zeros(count, dtype=torch.float64, device=device) for count in (len(experts), len(experts), 1)
    )
    for name in names:
        start = base.load(name).to(device).double()
        total = torch.zeros_like(start)
        for source in experts:
            total += source.load(name).to(device).double() - start
        for i, source in enumerate(experts):
            vector = source.load(name).to(device).double() - start
            squares[i] += vector.square().sum()
            products[i] += (vector * total).sum()
        length += (merged.load(name).to(device).double() - start).square().sum()
    if not bool(torch.isfinite(torch.cat([squares, length])).all()):
        raise CalibrationError(
            "the length of the task vectors is not finite; look for NaN or Inf in the checkpoints"
        )
    if not bool(length > 0):
        return 1.0
    distinct = torch.where(products > squares, squares / products, 1.0)
    return float((distinct * squares.sqrt()).sum()) / math.sqrt(float(length))
