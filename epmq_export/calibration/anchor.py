"""The length of the anchor: how far it lies from the base along the way to the merged model."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import torch

from epmq_export.calibration.method import Method
from epmq_export.calibration.task_vectors import TaskVectors, task_vectors
from epmq_export.models.blocks import linears
from epmq_export.models.family import Family
from epmq_export.tensors.source import TensorSource

CPU = torch.device("cpu")
# The most that the rounding of a merge to float32 moves it, as a share of the base's length: some units in
# the last place of each weight.
ROUNDING = 2.0**-22


def with_length(
    method: Method,
    family: Family,
    base: TensorSource,
    experts: Sequence[TensorSource],
    merged: TensorSource,
    device: torch.device = CPU,
    tell: Callable[[TaskVectors], None] = lambda vectors: None,
) -> Method:
    """Return the method with rho as a number. "auto" is measured on all linears of the family together, on
    the device, and what was measured is told.
    """
    if method.rho != "auto":
        return method
    vectors = task_vectors(base, experts, linears(family), merged, device)
    tell(vectors)
    return replace(method, rho=anchor_rho(vectors))


def anchor_rho(vectors: TaskVectors) -> float:
    """Return the rho that makes the anchor as long as the distinct task vectors of the experts laid end to
    end:

        rho = sum_t r_t ||tau_t|| / ||W_m - W_0||

    with r_t = `vectors.distinct`. Task vectors of different tasks are nearly orthogonal, so a merge is much
    shorter than the sum of their lengths, and where the calibration data say nothing each expert keeps less
    than its own share. A longer anchor gives it back (docs/method.md has the measurements). rho does not
    depend on the merge's own coefficient. It is 1 where the merge is the base, but for rounding errors, as of
    experts that cancel: these have no direction to go along.
    """
    if not vectors.merged > ROUNDING * vectors.base:
        return 1.0
    laid = sum(share * length for share, length in zip(vectors.distinct, vectors.lengths, strict=True))
    return laid / vectors.merged
