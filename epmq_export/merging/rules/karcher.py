"""The Karcher mean: the models' tensors are points of a sphere, and the mean is the point whose geodesics to
them sum to zero.

It is computed as in mergekit, tensor by tensor (arXiv 2603.04972 studies the same fixed point). From the
normalised mean of the unit vectors u_i, repeat

    step = mean_i angle_i / sin(angle_i) (u_i - cos(angle_i) u)
    u <- cos(|step|) u + sin(|step|) step / |step|

until |step| <= tol, at most max_iter times. The result has the mean of the models' lengths. Tensors no longer
than tol give no direction. Each step reads every model's tensor again, so that memory does not grow with
their number.
"""

import logging
import math

import torch
from torch import Tensor

from epmq_export.merging.inputs import Inputs
from epmq_export.merging.rule import Merge, Rule
from epmq_export.merging.rules.shared.lengths import dot, length
from epmq_export.merging.settings import Number

log = logging.getLogger(__name__)


def karcher(inputs: Inputs) -> Merge:
    def merge(tensor: str) -> Tensor:
        tol = inputs.number("tol", tensor)
        lengths = [length(tensor, inputs.expert(index, tensor)) for index in range(len(inputs.experts))]
        pointing = [index for index, value in enumerate(lengths) if value > tol]
        if not pointing:
            return torch.zeros(inputs.source.shape(tensor))

        def unit(index: int) -> Tensor:
            return inputs.expert(index, tensor).div_(lengths[index])

        mean = torch.zeros(inputs.source.shape(tensor))
        for index in pointing:
            mean.add_(unit(index), alpha=1 / len(pointing))
        size = length(tensor, mean)
        if size <= tol:
            log.warning(
                "karcher: in %s the models' directions cancel and have no mean; that of %s is taken",
                tensor,
                inputs.settings.models[pointing[0]].name,
            )
            mean, size = unit(pointing[0]), 1.0
        mean.div_(size)
        for _ in range(int(inputs.number("max_iter", tensor))):
            step = torch.zeros_like(mean)
            for index in pointing:
                other = unit(index)
                cosine = max(-1.0, min(1.0, dot(tensor, other, mean)))
                sine = math.sqrt(1 - cosine * cosine)
                # Else the model is there already, or is just opposite, where no direction leads to it.
                if sine > tol:
                    step.add_(other.add_(mean, alpha=-cosine), alpha=math.acos(cosine) / sine / len(pointing))
            size = length(tensor, step)
            if size <= tol:
                break
            mean.mul_(math.cos(size)).add_(step, alpha=math.sin(size) / size)
            mean.div_(length(tensor, mean))
        return mean.mul_(sum(lengths) / len(lengths))

    return merge


RULES = {
    "karcher": Rule(
        karcher,
        {"max_iter": Number(10, least=0, whole=True), "tol": Number(1e-5, least=0)},
        cost="an iterated mean on the sphere",
        counts_base=True,
    )
}
