"""The inputs of every rule: float32 tensors of the base and of the experts, one at a time, and the numbers
that go with them.
"""

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from epmq_export.errors import InputError, Key
from epmq_export.merging.names import Layers
from epmq_export.merging.settings import MergeSettings
from epmq_export.tensors.source import TypedSource


@dataclass(frozen=True)
class Inputs:
    """A base, its experts, and the settings of the rule that merges them."""

    source: TypedSource
    """The base."""

    experts: Sequence[TypedSource]
    settings: MergeSettings
    layers: Layers

    def base(self, tensor: str) -> Tensor:
        """Return the base's tensor, float32. Raises InputError where a value is not finite."""
        return _finite(self.source, tensor, "the base")

    def expert(self, index: int, tensor: str) -> Tensor:
        """Return an expert's tensor, float32, of its own memory.

        Raises InputError where a value is not finite.
        """
        return _finite(self.experts[index], tensor, self.settings.models[index].name)

    def task_vector(self, index: int, tensor: str, base: Tensor) -> Tensor:
        """Return expert - base, float32, of its own memory."""
        return self.expert(index, tensor).sub_(base)

    def number(self, name: str, tensor: str) -> float:
        """Return a number of the rule, for a tensor."""
        return self.settings.numbers[name].at(tensor, self.layers.share(tensor))

    def model_number(self, index: int, name: str, tensor: str) -> float:
        """Return a number that may differ by model, for a tensor of an expert."""
        parameter = self.settings.models[index].numbers[name]
        return parameter.at(self.layers.name_in(index, tensor), self.layers.share(tensor))

    def model_numbers(self, name: str, tensor: str) -> list[float]:
        """Return the same number of every expert, in their order."""
        return [self.model_number(index, name, tensor) for index in range(len(self.experts))]

    def model_key(self, index: int, name: str, tensor: str) -> Key:
        """Return the key at which the recipe gives a number of an expert for a tensor."""
        return self.settings.models[index].numbers[name].key_at(self.layers.name_in(index, tensor))

    @property
    def mergekit(self) -> bool:
        """Return whether mergekit is followed where it differs from the rule's paper."""
        return self.settings.convention == "mergekit"

    def uniform(self, index: int, tensor: str) -> Tensor:
        """Return random numbers from 0 up to 1 in the tensor's shape, float32.

        They are always the same for a seed, an expert's name and a tensor's name.
        """
        key = f"{self.number('seed', tensor):.0f}\0{self.settings.models[index].name}\0{tensor}"
        generator = np.random.Generator(
            np.random.Philox(key=int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "little"))
        )
        return torch.from_numpy(np.asarray(generator.random(self.source.shape(tensor), dtype=np.float32)))

    def floating(self) -> list[str]:
        """Return the names of the tensors that are merged."""
        return [name for name in self.source.names() if self.source.dtype(name).is_floating_point]


def all_finite(value: Tensor) -> bool:
    """Return whether a tensor has no NaN and no infinity.

    Both show in the extremes, which are found much faster than `isfinite` is computed.
    """
    return value.numel() == 0 or bool(torch.stack(value.aminmax()).isfinite().all())


def _finite(source: TypedSource, tensor: str, name: str) -> Tensor:
    value = source.load(tensor).to(torch.float32, copy=True)
    if not all_finite(value):
        count = int((~torch.isfinite(value)).sum())
        raise InputError(
            f"{name}: tensor {tensor} has {count} values that are no finite float32 (NaN or infinity)"
        )
    return value
