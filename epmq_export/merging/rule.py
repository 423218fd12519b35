"""The declaration of a merge rule."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from torch import Tensor

from epmq_export.merging.inputs import Inputs
from epmq_export.merging.settings import MergeSettings, Number

Merge = Callable[[str], Tensor]
"""A function that computes the merged tensor of a name, float32."""

Sparsify = Callable[[Tensor, int, str], Tensor]
"""A function that returns the part of a task vector that is kept. It takes the task vector, its expert's
index and its tensor's name, and may change the vector in place.
"""


@dataclass(frozen=True)
class Rule:
    """A way to merge models, as its own file in `rules` declares it."""

    merge: Callable[[Inputs], Merge]
    parameters: Mapping[str, Number]
    """The numbers that a recipe may set, by their names."""

    cost: str
    """The work that merging a tensor takes, for the forecast. {experts} stands for the number of experts,
    {more} for one more.
    """

    experts: tuple[int, int | None] = (1, None)
    """The fewest and the most experts that it can merge. None is any number."""

    check: Callable[[MergeSettings], None] = lambda settings: None
    """A function that raises SettingError for numbers that do not go together."""

    counts_base: bool = False
    """Whether the rule needs no base, and merges a base that is listed among the models like any other."""

    by_rows: Callable[[MergeSettings], bool] = lambda settings: False
    """A function that returns whether rows of a merged tensor depend on the same rows of the models alone.
    Then a tensor is merged in pieces that fit the processor's cache, by several threads at a time.
    """

    tables_by_rows: bool = False
    """Whether rows of a table of embeddings depend on the same rows of the models, though those of other
    tensors may not. Then a table is merged in pieces.
    """

    costly: bool = False
    """Whether a tensor takes far longer to compute than to read. A merge that is read more than once is then
    kept on disk.
    """
