"""Isotropic merging (arXiv 2502.04959): the sum of the task vectors with all its singular values made equal.

`iso_c` takes, for a linear, U V^T of the sum's singular vectors times the mean of its min(out, in) singular
values.

`iso_cts` keeps a leading share of the sum's triplets, `common_space_fraction`, rounded so that the rest
divides among the experts. Each expert adds the leading triplets of its task vector outside that space. U and
V are made orthogonal as in TSV-M, and the values are replaced by their mean.

Other tensors get the mean. Directions with a singular value of 0 are not unique and get none of the mean
value.
"""

import torch
from torch import Tensor

from epmq_export.merging.inputs import Inputs
from epmq_export.merging.rule import Merge, Rule
from epmq_export.merging.rules.shared.spectral import (
    by_linear,
    matrix,
    norm,
    outside,
    polar,
    total_matrix,
    triplets,
)
from epmq_export.merging.settings import Number


def iso_c(inputs: Inputs) -> Merge:
    def merge_linear(tensor: str, base: Tensor) -> Tensor:
        factor, s = polar(tensor, *total_matrix(inputs, tensor, base))
        return factor * (s.sum() / min(base.shape))

    return by_linear(inputs, merge_linear)


def iso_cts(inputs: Inputs) -> Merge:
    experts = len(inputs.experts)

    def merge_linear(tensor: str, base: Tensor) -> Tensor:
        rank = min(base.shape)
        common = int(rank * inputs.number("common_space_fraction", tensor))
        own = min(round((rank - common) / experts), rank // experts)
        everyone, lengths = total_matrix(inputs, tensor, base)
        us, ss, vs = ([each] for each in triplets(tensor, everyone, rank - own * experts, lengths))
        shared = us[0]
        for index in range(experts):
            vector = matrix(inputs, index, tensor, base)
            size = norm(tensor, vector)
            u, s, v = triplets(tensor, outside(shared, vector), own, size)
            us.append(u)
            ss.append(s)
            vs.append(v)
        return (
            polar(tensor, torch.cat(us, 1))[0]
            @ polar(tensor, torch.cat(vs, 1))[0].T
            * (torch.cat(ss).sum() / rank)
        )

    return by_linear(inputs, merge_linear)


RULES = {
    "iso_c": Rule(
        iso_c,
        {"lambda": Number(1.0)},
        cost="one singular value decomposition a linear, a small one where experts are adapters",
        tables_by_rows=True,
        costly=True,
    ),
    "iso_cts": Rule(
        iso_cts,
        {"lambda": Number(1.0), "common_space_fraction": Number(0.8, least=0, most=1)},
        cost="{more} singular value decompositions a linear, small ones where experts are adapters",
        tables_by_rows=True,
        costly=True,
    ),
}
