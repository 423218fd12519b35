"""The merged model as a source of tensors, computed one tensor at a time."""

from collections.abc import Sequence

import torch
from torch import Tensor

from epmq_export.errors import RecipeError
from epmq_export.merging.inputs import Inputs, Rows, all_finite
from epmq_export.merging.names import Layers, count_layers
from epmq_export.merging.registry import RULES
from epmq_export.merging.settings import MergeSettings
from epmq_export.tensors.compatible import require_fit
from epmq_export.tensors.source import TypedSource

# The dtypes that a recipe's `dtype` and `out_dtype` may name.
DTYPES = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}


class Merged:
    """The merged model as a source: a tensor is computed when it is loaded, in float32, and is not kept.

    One tensor of the base, one of one expert and the rule's float32 sums are in memory at a time, however
    many experts there are.
    """

    def __init__(self, inputs: Inputs, dtype: torch.dtype | None) -> None:
        self._inputs, self._dtype = inputs, dtype
        self._merge = RULES[inputs.settings.rule].merge(inputs)

    def names(self) -> Sequence[str]:
        return self._inputs.source.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self._inputs.source.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        stored = self._inputs.source.dtype(name)
        return self._dtype if self._dtype is not None and stored.is_floating_point else stored

    def load(self, name: str) -> Tensor:
        """Return a tensor. A tensor of integers is the base's.

        Raises RecipeError where a result does not fit its dtype.
        """
        if not self._inputs.source.dtype(name).is_floating_point:
            return self._inputs.source.load(name)
        pieces = self._inputs.pieces(name)
        if len(pieces) == 1:
            return self._fitting(self._merge(name), name)
        value = torch.empty(self.shape(name), dtype=self.dtype(name))

        def fill(piece: str) -> None:
            assert isinstance(piece, Rows)
            value[piece.start : piece.stop] = self._fitting(self._merge(piece), name)

        for _ in self._inputs.mapped(fill, pieces):
            pass
        return value

    def _fitting(self, value: Tensor, name: str) -> Tensor:
        """Return the value in its dtype. Raises RecipeError where it has none there."""
        value = value.to(self.dtype(name))
        if not all_finite(value):
            advice = (
                "look for outliers in the models" if value.dtype == torch.float32 else "write it as float32"
            )
            raise RecipeError(
                f"merged tensor {name} has values beyond {str(value.dtype).removeprefix('torch.')}: "
                f"{advice}, or use a smaller lambda"
            )
        return value


def merged(
    base: TypedSource,
    experts: Sequence[TypedSource],
    settings: MergeSettings,
    dtype: torch.dtype | None = None,
    layers: Layers | None = None,
) -> Merged:
    """Return the merge of experts, in the order of `settings.models`, all under the base's tensor names.

    Floating tensors get `dtype`, or by default the base's own. `layers` says which layers of a model these
    are, by default all. Raises InputError where an expert does not fit the base (headers are compared; no
    tensor is read).
    """
    if len(experts) != len(settings.models):
        raise ValueError(f"{len(experts)} experts for {len(settings.models)} models in the settings")
    for expert, model in zip(experts, settings.models, strict=True):
        require_fit(base, expert, model.name)
    rule = RULES[settings.rule]
    inputs = Inputs(
        source=base,
        experts=experts,
        settings=settings,
        layers=layers or Layers(count_layers(base.names())),
        by_rows=rule.by_rows(settings),
        tables_by_rows=rule.tables_by_rows,
    )
    return Merged(inputs, dtype)
