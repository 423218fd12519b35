"""WUDI (arXiv 2503.08099): for each linear, the vector that disturbs every expert least on the inputs that
its own task vector points to.

    minimise  sum_t || (tau - tau_t) tau_t^T ||^2 / || tau_t ||^2      from tau = sum_t tau_t, with Adam

With G_t = tau_t^T tau_t / || tau_t ||^2 and d = tau - sum_t tau_t, half the gradient is d sum_t G_t + sum_t
(sum_s tau_s - tau_t) G_t. These are two sums over the experts, so that neither memory nor the cost of a step
(out * in * in multiplications) grows with their number. Each expert is read twice. Of adapters, G_t is a
product of two matrices of their rank, and a step costs 2 * out * in * (the sum of the ranks). Everything is
float32, and there are no random numbers. Other tensors get the mean.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from epmq_export.merging.inputs import Inputs
from epmq_export.merging.rule import Merge, Rule
from epmq_export.merging.rules.shared.lengths import measured
from epmq_export.merging.rules.shared.spectral import by_linear, factors_of_all, total
from epmq_export.merging.settings import Number
from epmq_export.tensors.low_rank import LowRank, stacked


def wudi(inputs: Inputs) -> Merge:
    def merge_linear(tensor: str, base: Tensor) -> Tensor:
        factors = factors_of_all(inputs, tensor, base)
        everyone, gradient = _dense(inputs, tensor, base) if factors is None else _of_factors(factors)
        moved = torch.zeros_like(base)
        optimizer = torch.optim.Adam([moved], lr=inputs.number("learning_rate", tensor))
        for _ in range(int(inputs.number("steps", tensor))):
            moved.grad = gradient(moved).mul_(2)
            optimizer.step()
        return everyone.add_(moved)

    return by_linear(inputs, merge_linear)


Problem = tuple[Tensor, Callable[[Tensor], Tensor]]
"""The sum of the task vectors, and a function that returns half the gradient at a distance d from it."""


def _dense(inputs: Inputs, tensor: str, base: Tensor) -> Problem:
    everyone = total(inputs, tensor, base)
    gram, pull = torch.zeros(base.shape[1], base.shape[1]), torch.zeros_like(base)
    for index in range(len(inputs.experts)):
        vector = inputs.task_vector(index, tensor, base)
        size = measured(tensor, float(vector.square().sum()))
        if size > 0:
            own = vector.T @ vector / size
            gram.add_(own)
            pull.addmm_(everyone - vector, own)
    return everyone, lambda moved: torch.addmm(pull, moved, gram)


def _of_factors(factors: Sequence[LowRank]) -> Problem:
    """Return the problem of task vectors whose G_t is K_t^T K_t with K_t [r, in]: R A / |B A|, where B is an
    orthogonal matrix times R.
    """
    everyone = stacked(factors)
    rows: list[Tensor] = []
    pull = torch.zeros(everyone.shape)
    for own in factors:
        size = own.norm()
        if size > 0:
            rows.append((torch.linalg.qr(own.left.double()).R @ own.right.double() / size).float())
            others = everyone.times(rows[-1].T) - own.times(rows[-1].T)
            pull.addmm_(others, rows[-1])
    all_rows = torch.cat([torch.zeros(0, everyone.shape[1]), *rows])
    return everyone.dense(), lambda moved: torch.addmm(pull, moved @ all_rows.T, all_rows)


RULES = {
    "wudi": Rule(
        wudi,
        {
            "lambda": Number(1.0),
            "steps": Number(300, least=0, whole=True),
            "learning_rate": Number(1e-5, least=0),
        },
        cost="some hundred steps of Adam a linear, each of out * in * in multiplications an expert",
        tables_by_rows=True,
        costly=True,
    ),
}
