"""Parts that the rules that thin out task vectors share."""

import torch
from torch import Tensor

from epmq_export.merging.inputs import Inputs
from epmq_export.merging.settings import Number

# TIES, DARE, DELLA and breadcrumbs each keep a share of every task vector. A rule that has no default
# of its own needs the recipe to give one: with the 1 of mergekit nothing would be thinned out.
DENSITY = Number(mergekit=1.0, by_model=True, least=0, most=1)
SEED = Number(0, least=0, whole=True)


def order(inputs: Inputs, magnitudes: Tensor) -> Tensor:
    """Return the places of a tensor's magnitudes, float32 >= 0, in their order along the last dimension,
    int64. Equal ones keep the order of their places.

    Under mergekit's convention equal ones stand as torch's own sort leaves them, which is the order in
    mergekit with the same torch on the same machine.
    """
    if inputs.mergekit:
        return magnitudes.argsort(dim=-1)
    # float32 numbers >= 0 have the order of their bits. With the places below these, no two keys are equal,
    # and numpy sorts keys several times as fast as torch finds places.
    keys = magnitudes.contiguous().view(torch.int32).to(torch.int64).bitwise_left_shift_(32)
    keys.bitwise_or_(torch.arange(magnitudes.shape[-1]))
    keys.numpy().sort(axis=-1)
    return keys.bitwise_and_((1 << 32) - 1)


def match_l1(kept: Tensor, before: Tensor) -> Tensor:
    """Make `kept`, in place, as long in the L1 norm as the vector it was taken from, and return it. This is
    mergekit's `rescale`.

    Lengths below 1e-7 are left.
    """
    length, whole = float(kept.abs().sum()), float(before.abs().sum())
    return kept if min(length, whole) < 1e-7 else kept.mul_(whole / length)
