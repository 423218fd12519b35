"""TIES (arXiv 2306.01708): trim each task vector, elect a sign for each entry, and average the values that
agree with it.

Trimming keeps an expert's largest `density` share of |task vector| over all its parameters flattened, as in
the paper (where the density differs by tensor, over all tensors of one density). An entry whose trimmed
vectors cancel exactly takes the sign of the majority over all parameters, as in the authors' code. Weights
multiply the task vectors before the election, and the sum is divided by the weights that agree, as in
mergekit; with equal weights this is the paper's mean.

Under mergekit's convention, each tensor is trimmed by itself, to exactly int(density * entries), and what
cancels exactly counts as positive.
"""

from collections.abc import Iterator

import numpy as np
import torch
from torch import Tensor

from epmq_export.errors import SettingError
from epmq_export.merging.inputs import Inputs
from epmq_export.merging.parallel import once
from epmq_export.merging.rule import Merge, Rule, Sparsify
from epmq_export.merging.rules.shared.kth_largest import kth_largest
from epmq_export.merging.rules.shared.sparsity import match_l1
from epmq_export.merging.rules.shared.weights import WEIGHT
from epmq_export.merging.settings import MergeSettings, Number, flag


def trim(inputs: Inputs) -> Sparsify:
    """Return a function that keeps the largest entries of a task vector."""

    @once
    def threshold(index: int, density: float) -> float:
        """Return the smallest magnitude that an expert's trimming keeps. All entries equal to it are kept."""
        names = [name for name in inputs.floating() if inputs.model_number(index, "density", name) == density]
        pieces = [piece for name in names for piece in inputs.pieces(name)]

        def magnitudes(piece: str) -> Tensor:
            return inputs.task_vector(index, piece, inputs.base(piece)).abs_().flatten()

        size = sum(torch.Size(inputs.source.shape(name)).numel() for name in names)
        return kth_largest(pieces, magnitudes, int(density * size), size, inputs.mapped)

    def large(vector: Tensor, density: float, index: int) -> Tensor:
        if not inputs.mergekit:
            # It keeps what is beyond its second argument, which here is the number next below the threshold.
            least = np.nextafter(np.float32(threshold(index, density)), np.float32(-1))
            return torch.nn.functional.hardshrink(vector, float(least))
        places = vector.abs().flatten().argsort(descending=True)
        mask = torch.zeros(vector.numel(), dtype=torch.bool)
        mask[places[: int(density * vector.numel())]] = True
        return vector * mask.reshape(vector.shape)

    def sparsify(vector: Tensor, index: int, tensor: str) -> Tensor:
        kept = large(vector, inputs.model_number(index, "density", tensor), index)
        return match_l1(kept, vector) if inputs.number("rescale", tensor) else kept

    return sparsify


def elected(inputs: Inputs, sparsify: Sparsify) -> Merge:
    """Return the election and the mean of TIES on what `sparsify` keeps of the task vectors."""

    def vectors(tensor: str, base: Tensor) -> Iterator[tuple[Tensor, float]]:
        """Yield what is kept of each task vector, times its weight, and the weight."""
        for index, weight in enumerate(inputs.model_numbers("weight", tensor)):
            yield sparsify(inputs.task_vector(index, tensor, base), index, tensor).mul_(weight), weight

    def elect(tensor: str, base: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Return five sums by entry: of all values, of those that are positive and of those that are
        negative, and of the weights of either.
        """
        total, up, down, up_weight, down_weight = (torch.zeros_like(base) for _ in range(5))
        for vector, weight in vectors(tensor, base):
            total.add_(vector)
            up.add_(vector.clamp(min=0))
            down.add_(vector.clamp(max=0))
            sign = vector.sign_()
            up_weight.add_(sign.clamp(min=0), alpha=weight)
            down_weight.add_(sign.clamp_(max=0), alpha=-weight)
        return total, up, down, up_weight, down_weight

    @once
    def majority() -> float:
        """Return the sign of the sum of all elected signs."""

        def votes(piece: str) -> int:
            base = inputs.base(piece)
            total = torch.zeros_like(base)
            for vector, _ in vectors(piece, base):
                total.add_(vector)
            return int(total.sign_().sum(dtype=torch.float64))

        pieces = [piece for name in inputs.floating() for piece in inputs.pieces(name)]
        return float(np.sign(sum(inputs.mapped(votes, pieces))))

    def merge(tensor: str) -> Tensor:
        base = inputs.base(tensor)
        sign, up, down, up_weight, down_weight = elect(tensor, base)
        # Masks are of 0 and 1, because torch is several times as fast with numbers as with truth values.
        cancelled = sign.clone().eq_(0).mul_(up).sign_()
        sign.sign_()
        if cancelled.numel() and bool(cancelled.max()):
            sign.add_(cancelled, alpha=1.0 if inputs.mergekit else majority())
        if inputs.number("normalize", tensor):
            up.div_(_divisor(up_weight))
            down.div_(_divisor(down_weight))
        # One of the two is multiplied by 0, or both.
        chosen = up.mul_(sign.clamp(min=0)).sub_(down.mul_(sign.clamp_(max=0)))
        return base.add_(chosen, alpha=inputs.number("lambda", tensor))

    return merge


def _divisor(weights: Tensor) -> Tensor:
    """Return sums of weights, in place, with another number where a sum is 0, as is what is divided by it.

    mergekit allows negative weights, whose sum may be 0 where there is something to divide. That is then
    divided by 1.
    """
    if not weights.numel() or weights.min() >= 0:
        return weights.clamp_(min=1e-30)
    return weights.masked_fill_(weights == 0, 1.0)


def ties(inputs: Inputs) -> Merge:
    return elected(inputs, trim(inputs))


def positive_weights(settings: MergeSettings) -> None:
    """Raise SettingError where the mean would divide by negative weights. mergekit allows that."""
    for model in settings.models:
        entry = min(model.numbers["weight"].entries, key=lambda entry: min(entry.gradient))
        least = min(entry.gradient)
        if least < 0 and settings.convention == "paper" and any(settings.numbers["normalize"].values):
            raise SettingError(
                entry.key,
                f"weight of {model.name} is {least:g}, expected 0 or more: {settings.rule} divides by the "
                "weights that agree",
            )


RULES = {
    "ties": Rule(
        ties,
        {
            "weight": WEIGHT,
            "density": Number(0.2, mergekit=1.0, by_model=True, least=0, most=1),
            "lambda": Number(1.0),
            "normalize": flag(True),
            "rescale": flag(False),
        },
        cost="each expert read twice: for the size that its trimming keeps, then for signs and means",
        by_rows=lambda settings: (
            settings.convention == "paper" and not any(settings.numbers["rescale"].values)
        ),
        check=positive_weights,
    )
}
