"""How far the anchor lies from the base."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import torch

from epmq_export.calibration.method import Method
from epmq_export.errors import CalibrationError
from epmq_export.family import Family, TensorSource


def with_length(method: Method, family: Family, base: TensorSource, experts: Sequence[TensorSource], merged: TensorSource) -> Method:
    """The method with rho as a number: "auto" is measured on all the family's linears together."""
    if method.rho != "auto":
        return method
    names = [f"{block.name}.{path}.weight" for block in family.blocks for step in block.steps for path in step]
    return replace(method, rho=anchor_rho(base, experts, merged, [name for name in names if len(base.shape(name)) == 2]))


def anchor_rho(base: TensorSource, experts: Sequence[TensorSource], merged: TensorSource, names: Iterable[str]) -> float:
    """The rho that makes the anchor as long as the experts' task vectors laid end to end: sum_t ||W_t - W_0|| / ||W_m - W_0||.

    Norms are Frobenius over the tensors of `names` together. Task vectors of different tasks are nearly orthogonal, so a merge is much
    shorter than what it sums, and where the calibration data are silent each expert keeps less than its own share; a longer anchor
    gives it back (docs/method.md has the measurements). Free of the merge's own coefficient. 1 where the merge is the base.
    """
    squares = torch.zeros(len(experts) + 1, dtype=torch.float64)
    for name in names:
        start = base.load(name).double()
        for i, source in enumerate((*experts, merged)):
            squares[i] += (source.load(name).double() - start).square().sum()
    lengths = squares.sqrt()
    if not bool(torch.isfinite(lengths).all()):
        raise CalibrationError("the length of the task vectors is not finite; look for NaN or Inf in the checkpoints")
    return float(lengths[:-1].sum() / lengths[-1]) if lengths[-1] > 0 else 1.0
