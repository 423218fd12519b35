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
    """The rho that makes the anchor as long as the experts' distinct task vectors laid end to end:

        rho = r * sum_t ||tau_t|| / ||W_m - W_0||        r = min(1, sum_t ||tau_t||^2 / ||sum_t tau_t||^2)

    with tau_t = W_t - W_0 and Frobenius norms over the tensors of `names` together. Task vectors of different tasks are nearly orthogonal, so
    a merge is much shorter than what it sums, and where the calibration data are silent each expert keeps less than its own share; a longer
    anchor gives it back (docs/method.md has the measurements). r is 1 for orthogonal task vectors; where several experts are one, they
    count once. Free of the merge's own coefficient. 1 where the merge is the base.
    """
    # Of each task vector, of their sum, of the merge's.
    squares = torch.zeros(len(experts) + 2, dtype=torch.float64)
    for name in names:
        start = base.load(name).double()
        total = torch.zeros_like(start)
        for i, source in enumerate(experts):
            vector = source.load(name).double() - start
            squares[i] += vector.square().sum()
            total += vector
        squares[-2] += total.square().sum()
        squares[-1] += (merged.load(name).double() - start).square().sum()
    if not bool(torch.isfinite(squares).all()):
        raise CalibrationError("the length of the task vectors is not finite; look for NaN or Inf in the checkpoints")
    if not squares[-1] > 0:
        return 1.0
    distinct = min(1.0, float(squares[:-2].sum() / squares[-2])) if squares[-2] > 0 else 1.0
    return distinct * float(squares[:-2].sqrt().sum() / squares[-1].sqrt())
