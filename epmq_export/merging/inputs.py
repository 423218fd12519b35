"""The inputs of every rule: float32 tensors of the base and of the experts, one at a time, and the numbers
that go with them.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from threading import Lock
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from epmq_export.errors import InputError, Key
from epmq_export.merging.names import Layers, is_table
from epmq_export.merging.parallel import mapped
from epmq_export.merging.settings import MergeSettings
from epmq_export.tensors.low_rank import LowRank, added_to
from epmq_export.tensors.source import RowReader, TypedSource, row_reader

T = TypeVar("T")
R = TypeVar("R")

# The float32 numbers that Philox makes at a time. A run of them can begin at each multiple of it.
NUMBERS = 8
# The entries of a piece: few enough that a rule's float32 tensors stay in the cache.
PIECE = 1 << 18


class Rows(str):
    """The name of a tensor where a rule is asked for some of its rows alone: all that it reads of the inputs
    by this name are these rows.
    """

    start: int
    stop: int

    def __new__(cls, tensor: str, start: int, stop: int) -> "Rows":
        self = super().__new__(cls, tensor)
        self.start, self.stop = start, stop
        return self


@dataclass(frozen=True)
class Inputs:
    """A base, its experts, and the settings of the rule that merges them."""

    source: TypedSource
    """The base."""

    experts: Sequence[TypedSource]
    settings: MergeSettings
    layers: Layers
    by_rows: bool = False
    """Whether rows of a merged tensor depend on the same rows of the models alone."""

    tables_by_rows: bool = False
    """Whether those of a table of embeddings do."""

    _readers: dict[int, tuple[str, RowReader]] = field(default_factory=dict, repr=False, compare=False)
    """The reader of the tensor that was last read by rows, by its source."""

    _opening: Lock = field(default_factory=Lock, repr=False, compare=False)
    """Held while a reader is made, so that threads that read the same tensor share one."""

    def shape(self, tensor: str) -> tuple[int, ...]:
        """Return the shape of what `base` returns."""
        shape = self.source.shape(tensor)
        return (tensor.stop - tensor.start, *shape[1:]) if isinstance(tensor, Rows) else shape

    def pieces(self, tensor: str) -> Sequence[str]:
        """Return the tensor's rows in pieces of about PIECE entries, or the tensor itself where it is small
        or has to be merged whole.
        """
        count, *inner = self.source.shape(tensor) or (1,)
        # Every piece begins at a multiple of NUMBERS entries.
        rows = max(1, PIECE // max(1, math.prod(inner)) // NUMBERS) * NUMBERS
        by_rows = self.by_rows or (self.tables_by_rows and is_table(tensor))
        if not by_rows or not inner or count <= rows:
            return [tensor]
        return [Rows(tensor, start, min(start + rows, count)) for start in range(0, count, rows)]

    def mapped(self, job: Callable[[T], R], pieces: Sequence[T]) -> Iterator[R]:
        """Yield what a job returns for each piece, in their order, computed in threads.

        The pieces of a tensor are done before those of the next are begun, because one reader is kept for
        each model.
        """
        for _, group in groupby(pieces):
            yield from mapped(job, [*group])

    def base(self, tensor: str) -> Tensor:
        """Return the base's tensor, float32. Raises InputError where a value is not finite."""
        return self._finite(self.source, tensor, "the base")

    def expert(self, index: int, tensor: str) -> Tensor:
        """Return an expert's tensor, float32, of its own memory.

        Raises InputError where a value is not finite.
        """
        return self._finite(self.experts[index], tensor, self.settings.models[index].name)

    def task_vector(self, index: int, tensor: str, base: Tensor) -> Tensor:
        """Return expert - base, float32, of its own memory."""
        return self.expert(index, tensor).sub_(base)

    def low_rank(self, index: int, tensor: str, base: Tensor) -> LowRank | None:
        """Return expert - base of a matrix as its factors, where the expert is an adapter on this very base;
        else None.

        `task_vector` returns the same after the base was added to it and taken away again, in float32. It
        differs from the product of the factors by at most 2**-23 of the larger of |expert| and |base|, beside
        the rounding of the product itself.
        """
        return added_to(self.experts[index], tensor, base)

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
        numbers = np.random.Philox(key=int.from_bytes(hashlib.sha256(key.encode()).digest()[:16], "little"))
        shape = self.shape(tensor)
        if isinstance(tensor, Rows):
            numbers.advance(tensor.start * math.prod(shape[1:]) // NUMBERS)
        # These are the numbers of numpy's Generator.random: the upper 24 of each 32 bits, the lower half of
        # 64 first. Taking them from the bits themselves takes half as long.
        count = math.prod(shape)
        bits = np.asarray(numbers.random_raw(-(-count // 2)), "<u8").view("<u4")[:count]
        bits >>= 8
        return torch.from_numpy(bits.view("<i4")).float().mul_(2.0**-24).reshape(shape)

    def floating(self) -> list[str]:
        """Return the names of the tensors that are merged."""
        return [name for name in self.source.names() if self.source.dtype(name).is_floating_point]

    def _finite(self, source: TypedSource, tensor: str, name: str) -> Tensor:
        value = self._loaded(source, tensor).to(torch.float32, copy=True)
        if not all_finite(value):
            count = int((~torch.isfinite(source.load(str(tensor)).float())).sum())
            raise InputError(
                f"{name}: tensor {tensor} has {count} values that are no finite float32 (NaN or infinity)"
            )
        return value

    def _loaded(self, source: TypedSource, tensor: str) -> Tensor:
        """Return a tensor, or rows of it. What cannot be read by rows is kept until the next tensor is
        read.
        """
        if not isinstance(tensor, Rows):
            return source.load(tensor)
        with self._opening:
            name, read = self._readers.get(id(source), ("", None))
            if read is None or name != tensor:
                read = row_reader(source, str(tensor)) or _sliced(source.load(str(tensor)))
                self._readers[id(source)] = str(tensor), read
        return read(tensor.start, tensor.stop)


def all_finite(value: Tensor) -> bool:
    """Return whether a tensor has no NaN and no infinity.

    Either makes the sum of all values NaN or infinite, and the sum is computed several times as fast as
    `isfinite` and the extremes are. A sum may also be infinite because it is too large: the extremes tell
    then.
    """
    return (
        value.numel() == 0
        or math.isfinite(value.sum().item())
        or all(math.isfinite(extreme.item()) for extreme in value.aminmax())
    )


def _sliced(value: Tensor) -> RowReader:
    return lambda start, stop: value[start:stop]
