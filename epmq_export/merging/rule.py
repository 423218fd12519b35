"""What a rule of merging is."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from epmq_export.merging.inputs import Inputs
from epmq_export.merging.settings import MergeSettings, Number

Merge = Callable[[str], Tensor]
"""Computes the merged tensor of a name, float32."""

Sparsify = Callable[[Tensor, int, str], Tensor]
"""Returns what is kept of a task vector, given with its expert's index and its tensor's name; may change it
in place.
"""


@dataclass(frozen=True)
class Rule:
    """A way to merge models, as its own file in `rules` declares it."""

    merge: Callable[[Inputs], Merge]
    parameters: Mapping[str, Number]
    """What a recipe may set, by its names."""

    cost: str
    """What merging a tensor takes, for the forecast; {experts} stands for their number, {more} for one
    more.
    """

    experts: tuple[int, int | None] = (1, None)
    """The fewest and the most that it can merge; None: any number."""

    check: Callable[[MergeSettings], None] = lambda settings: None
    """Raises SettingError for numbers that do not go together."""

    counts_base: bool = False
    """Whether a base that is listed among the models is one of the merged, and no base is needed."""

    costly: bool = False
    """Whether a tensor takes far longer to compute than to read: what reads a merge more than once then keeps
    it.
    """
