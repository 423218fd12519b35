"""What the rules that thin out task vectors share."""

from torch import Tensor

from epmq_export.merging.settings import Number

# TIES, DARE, DELLA and breadcrumbs each keep a share of every expert's task vector. Without a default of its own, a rule needs it said:
# with the 1 of mergekit, nothing would be thinned out.
DENSITY = Number(mergekit=1.0, by_model=True, least=0, most=1)
SEED = Number(0, least=0, whole=True)


def match_l1(kept: Tensor, before: Tensor) -> Tensor:
    """`kept`, in place, made as long as the vector it was taken from, in the L1 norm: mergekit's `rescale`. Lengths below 1e-7 are left."""
    length, whole = float(kept.abs().sum()), float(before.abs().sum())
    return kept if min(length, whole) < 1e-7 else kept.mul_(whole / length)
