"""A recipe's models under one family's canonical names: base, experts and merge."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from epmq_export.models.family import Family
from epmq_export.tensors.source import Joined, TypedSource, only, without


@dataclass(frozen=True)
class ModelSet:
    """The models that calibration reads: base, experts and merge under the family's canonical names. Frozen
    tensors are the base's in all of them.
    """

    family: Family
    base: TypedSource
    experts: Mapping[str, TypedSource]
    merged: TypedSource
    frozen: Sequence[str] = ()

    def like_expert(self, source: TypedSource) -> TypedSource:
        """Return a fine-tune of the base, under canonical names, with the base's own frozen tensors."""
        if not self.frozen:
            return source
        return Joined([without(source, self.frozen), only(self.base, self.frozen)])
