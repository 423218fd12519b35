"""What a rule of merging is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from epmq_export.merging.inputs import Inputs
from epmq_export.merging.settings import MergeSettings, Number

Merge = Callable[[str], Tensor]
"""The merged tensor of a name, float32."""

Sparsify = Callable[[Tensor, int, str], Tensor]
"""What is kept of a task vector, given with its expert's index and its tensor's name; may change it in
place.
"""


@dataclass(frozen=True)
class Rule:
    merge: Callable[[Inputs], Merge]
    parameters: Mapping[str, Number]
    experts: tuple[int, int | None] = (1, None)
    """The fewest and the most that it can merge."""

    check: Callable[[MergeSettings], None] = lambda settings: None
    """RecipeError for numbers that do not go together."""

    counts_base: bool = False
    """Whether a base that is listed among the models is one of the merged, and no base is needed."""

    costly: bool = False
    """Whether a tensor takes far longer to compute than to read: what reads a merge more than once then keeps
    it.
    """
