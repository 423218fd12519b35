"""Calibrated tensors as a source."""

from collections.abc import Mapping
from dataclasses import dataclass

from torch import Tensor

from epmq_export.packed import PackedTensor


@dataclass(frozen=True)
class Values:
    """Tensors in memory by name, on a grid or plain, as the values that they ship."""

    tensors: Mapping[str, PackedTensor | Tensor]

    def names(self) -> list[str]:
        return sorted(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.load(name).shape)

    def load(self, name: str) -> Tensor:
        """float32 where it is on a grid; a copy of the caller's own."""
        value = self.tensors[name]
        return value.dequantise() if isinstance(value, PackedTensor) else value.clone()
