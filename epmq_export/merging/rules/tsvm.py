"""TSV-M (arXiv 2412.00081): the leading singular triplets of all experts side by side, made orthogonal.

For a linear [out, in], T experts and r = min(out, in), the floor(r / T) largest triplets of each task vector
are taken. All U stand side by side, and so do all V, and each of the two matrices is replaced by the
orthogonal factor of its polar decomposition. The result is U diag(s) V^T. Other tensors, and linears with r <
T, get the mean. Where task vectors are of low rank (adapters, equal experts) the paper's matrices are not
unique, so triplets with a value of 0 are left out.
"""

import logging
from collections.abc import Sequence

import torch
from torch import Tensor

from epmq_export.merging.inputs import Inputs
from epmq_export.merging.parallel import mapped
from epmq_export.merging.rule import Merge, Rule
from epmq_export.merging.rules.shared.decompositions import Triplets
from epmq_export.merging.rules.shared.spectral import by_linear, matrix, polar, total, triplets
from epmq_export.merging.settings import Number

log = logging.getLogger(__name__)


def tsvm(inputs: Inputs) -> Merge:
    experts = len(inputs.experts)

    def merge_linear(tensor: str, base: Tensor) -> Tensor:
        most = min(base.shape) // experts
        if not most:
            log.info(
                "tsvm: %s %s has fewer singular values than there are experts; it gets the mean",
                tensor,
                list(base.shape),
            )
            return total(inputs, tensor, base).div_(experts)

        def parts(index: int) -> Triplets:
            return triplets(tensor, matrix(inputs, index, tensor, base), most)

        def orthogonal(side: Sequence[Tensor]) -> Tensor:
            return polar(tensor, torch.cat([*side], 1))[0]

        # Decompositions gain little from more than one processor each, so they are computed side by side.
        u, s, v = zip(*mapped(parts, range(experts)), strict=True)
        left, right = mapped(orthogonal, (u, v))
        return left * torch.cat(s) @ right.T

    return by_linear(inputs, merge_linear)


RULES = {
    "tsvm": Rule(
        tsvm,
        {"lambda": Number(1.0)},
        cost="{experts} singular value decompositions and two polar ones a linear, small ones where experts "
        "are adapters",
        tables_by_rows=True,
        costly=True,
    )
}
