"""DARE (arXiv 2311.03099): drop entries of a task vector at random and lengthen the others, then do task
arithmetic or TIES.

An entry is kept with the probability `density` and divided by it, so that the expectation stays. In
`dare_ties` dropping takes the place of trimming, as in mergekit; the code of the authors also trims what is
left. The entries that are kept depend on `seed`, the expert's name and the tensor's name, and on nothing
else.

Under mergekit's convention, the kept entries are lengthened to the L1 norm that the tensor's task vector had.
"""

from torch import Tensor

from epmq_export.merging.inputs import Inputs
from epmq_export.merging.rule import Merge, Rule, Sparsify
from epmq_export.merging.rules.shared.sparsity import DENSITY, SEED, match_l1
from epmq_export.merging.rules.shared.weights import WEIGHT
from epmq_export.merging.rules.task_arithmetic import LAMBDA, added
from epmq_export.merging.rules.ties import elected, positive_weights
from epmq_export.merging.settings import MergeSettings, Number, flag


def drop(inputs: Inputs) -> Sparsify:
    """Return a function that drops entries of a task vector at random."""

    def sparsify(vector: Tensor, index: int, tensor: str) -> Tensor:
        density = inputs.model_number(index, "density", tensor)
        if density == 1:
            return vector
        kept = inputs.uniform(index, tensor).lt_(density).mul_(vector)
        if density == 0 or not inputs.number("rescale", tensor):
            return kept
        return match_l1(kept, vector) if inputs.mergekit else kept.div_(density)

    return sparsify


def dare_linear(inputs: Inputs) -> Merge:
    return added(inputs, drop(inputs))


def dare_ties(inputs: Inputs) -> Merge:
    return elected(inputs, drop(inputs))


def by_rows(settings: MergeSettings) -> bool:
    """Return whether no number of a tensor depends on all of it, as its L1 norm does."""
    return settings.convention == "paper" or not any(settings.numbers["rescale"].values)


_BOTH = {"weight": WEIGHT, "density": DENSITY, "rescale": flag(True), "seed": SEED}
RULES = {
    "dare_linear": Rule(
        dare_linear,
        {**_BOTH, "lambda": LAMBDA, "normalize": flag(False)},
        cost="random drops, then a sum of task vectors",
        by_rows=by_rows,
    ),
    "dare_ties": Rule(
        dare_ties,
        {**_BOTH, "lambda": Number(1.0), "normalize": flag(True, mergekit=False)},
        cost="random drops, then signs and means",
        by_rows=by_rows,
        check=positive_weights,
    ),
}
