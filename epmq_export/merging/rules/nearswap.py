"""NearSwap of one expert: base + clip(expert - base, -t, t), number by number.

The same as mergekit's nearswap and as the formula it is published with, W_0 + min(1, t / |tau|) tau with
tau = W - W_0 (https://huggingface.co/alchemonaut/QuartetAnemoi-70B-t0.0001): numbers that differ by up to `t`
become the expert's, and the others move towards it by `t`.
"""

from torch import Tensor

from epmq_export.merging.inputs import Inputs
from epmq_export.merging.rule import Merge, Rule
from epmq_export.merging.settings import Number


def nearswap(inputs: Inputs) -> Merge:
    def merge(tensor: str) -> Tensor:
        base, t = inputs.base(tensor), inputs.number("t", tensor)
        return base.add_(inputs.task_vector(0, tensor, base).clamp_(-t, t))

    return merge


RULES = {
    "nearswap": Rule(
        nearswap,
        {"t": Number(least=0)},
        cost="one task vector, read tensor by tensor",
        experts=(1, 1),
        by_rows=lambda settings: True,
    )
}
