"""The one model as it is, times `scale`: mergekit's rule for stacking slices of models."""

from torch import Tensor

from epmq_export.merging.inputs import Inputs
from epmq_export.merging.rule import Merge, Rule
from epmq_export.merging.settings import Number


def passthrough(inputs: Inputs) -> Merge:
    def merge(tensor: str) -> Tensor:
        return inputs.expert(0, tensor).mul_(inputs.model_number(0, "scale", tensor))

    return merge


RULES = {
    "passthrough": Rule(
        passthrough,
        {"scale": Number(1.0, by_model=True)},
        cost="a copy",
        experts=(1, 1),
        counts_base=True,
    )
}
