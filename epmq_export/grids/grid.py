"""Grids: the values that a group of weights can have.

A grid fixes which codes exist, how many inputs share stored numbers, and how these are stored. Calibration
chooses codes and stored numbers on the grid of the file, so that packing is a permutation of bits and loses
nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache, cached_property

import torch
from torch import Tensor

from epmq_export.errors import CalibrationError

# The weights that are fitted together on the processor, so that a search goes over what its cache holds.
_TOGETHER = 2**18

Stored = Mapping[str, Tensor]
"""The numbers that a file holds beside the codes, by the name of their part. Each tensor is [rows, groups *
count], the groups of a row one after the other.
"""


@dataclass(frozen=True)
class Part:
    """One of a grid's stored numbers."""

    dtype: torch.dtype
    bits: int
    """The bits that one such number takes in a GGUF file. An integer is below 2 ** bits."""

    count: int = 1
    """How many of these numbers a group has."""


@dataclass(frozen=True)
class Grid(ABC):
    """A grid holds values step * level(code) + offset, with a step (and, on some grids, an offset) for every
    `subgroup` inputs.

    A solver that walks along the inputs calls `fit` where a group begins, `refit` where a subgroup begins,
    takes its steps from `column`, and then calls `encode` and `decode` for each input. A solver that knows
    better steps than those of `fit` asks `round` for the stored numbers that come nearest to them.
    """

    name: str
    group: int
    """The number of consecutive inputs that share stored numbers."""

    subgroup: int
    """The number of consecutive inputs that share a step."""

    lowest: int
    """The lowest code. The others follow without a gap."""

    levels: tuple[int, ...] = field(repr=False)
    """The level of each code, rising. Levels equal codes where the steps are even."""

    @cached_property
    def highest(self) -> int:
        """Return the highest code."""
        return self.lowest + len(self.levels) - 1

    @property
    def file_type(self) -> str:
        """Return llama.cpp's name of the bytes. A grid that is only a choice among the points of a wider grid
        returns the name of that grid.
        """
        return self.name

    @property
    def bits(self) -> int:
        """Return the bits of a code."""
        return (len(self.levels) - 1).bit_length()

    @property
    def bits_per_weight(self) -> float:
        """Return the bits that a weight takes in a GGUF file, stored numbers included."""
        return self.bits + sum(part.bits * part.count for part in self.parts.values()) / self.group

    @cached_property
    def even(self) -> bool:
        """Return whether every code is its own level, so that the steps are even."""
        return self.levels == tuple(range(self.lowest, self.highest + 1))

    @property
    @abstractmethod
    def parts(self) -> Mapping[str, Part]:
        """Return the stored numbers by name. The first is always `scales`: float16, one a group."""

    @abstractmethod
    def fit(self, weight: Tensor, importance: Tensor | None = None) -> Stored:
        """Return stored numbers for rows of one group each, [rows, group]: the ones of least squared rounding
        error that a search finds.

        `importance`, [group] or [rows, group], weighs the errors. Raises CalibrationError where a weight is
        not finite or is beyond the reach of the grid.
        """

    @abstractmethod
    def steps(self, stored: Stored) -> tuple[Tensor, Tensor | None]:
        """Return the step and the offset (None where all are 0) of each subgroup, float32 [rows, groups *
        group / subgroup], as the decoders of the runtimes compute them.
        """

    @abstractmethod
    def round(self, step: Tensor, offset: Tensor | None = None) -> Stored:
        """Return the stored numbers that come nearest to the wished steps and offsets, which have the shapes
        that `steps` returns.
        """

    def refit(self, stored: Stored, index: int, weight: Tensor, importance: Tensor | None = None) -> Stored:
        """Return the stored numbers of rows of one group each, with those of subgroup `index` fitted again to
        its weights, [rows, subgroup]: a solver has changed them since `fit` saw them.
        """
        return stored

    def column(self, stored: Stored, index: int) -> tuple[Tensor, Tensor | None]:
        """Return the step and the offset of one subgroup, each float32 [rows]."""
        step, offset = self.steps(stored)
        return step[:, index].contiguous(), None if offset is None else offset[:, index].contiguous()

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Return whether a tensor of this shape is [out, in] and divides into whole groups."""
        return len(shape) == 2 and shape[1] % self.group == 0

    def level(self, codes: Tensor) -> Tensor:
        """Return the levels of codes, float32, in the shape of the codes."""
        return codes.float() if self.even else _table(self.levels, codes.device)[codes.int() - self.lowest]

    def nearest_level_(self, ratios: Tensor) -> Tensor:
        """Replace each of `ratios`, float32, in place by its nearest level, and return them."""
        return self.nearest_level(ratios, ratios)

    def nearest_level(self, ratios: Tensor, out: Tensor) -> Tensor:
        """Put the nearest level of each of `ratios`, float32, into `out`, and return it."""
        if self.even:
            return torch.round(ratios, out=out).clamp_(self.lowest, self.highest)
        return out.copy_(_table(self.levels, ratios.device)[self._index(ratios)])

    def encode(self, weight: Tensor, step: Tensor, offset: Tensor | None = None) -> Tensor:
        """Return the nearest codes, int8, of weights under steps and offsets that broadcast to them. Where
        the step is 0 this is the code of the level nearest to 0.
        """
        return self.codes((weight if offset is None else weight - offset) * inverse(step))

    def codes(self, ratios: Tensor) -> Tensor:
        """Return the codes, int8, of the levels nearest to `ratios`, float32, which may be levels
        themselves and may be overwritten.
        """
        if self.even:
            return self.nearest_level_(ratios).to(torch.int8)
        return (self._index(ratios) + self.lowest).to(torch.int8)

    def _index(self, ratios: Tensor) -> Tensor:
        """Return the index of the nearest level of each ratio, int32. Levels are integers, so between two
        neighbouring multiples of 1/2 the nearest level is the same everywhere.
        """
        first, last = 2 * self.levels[0], 2 * self.levels[-1]
        halves = (ratios * 2).floor_().clamp_(first, last).to(torch.int32)
        # NaN became an arbitrary integer, so the bounds are applied a second time.
        return _nearest(self.levels, ratios.device)[halves.clamp_(first, last) - first]

    def decode(self, codes: Tensor, step: Tensor, offset: Tensor | None = None) -> Tensor:
        """Return the float32 values of codes, equal bit for bit to those that the runtimes decode."""
        values = step * self.level(codes)
        return values if offset is None else values + offset

    def quantise(self, weight: Tensor, importance: Tensor | None = None) -> tuple[Tensor, Stored]:
        """Round each weight of a tensor [out, in] to its nearest value. Return codes, int8 [out, in], and
        stored numbers.

        `importance`, [in], weighs the errors. Raises CalibrationError as `fit` does.
        """
        rows = weight.float().reshape(-1, self.group)
        if importance is not None:
            importance = importance.reshape(-1, self.group).repeat(weight.shape[0], 1)
        size = _TOGETHER // self.group if weight.device.type == "cpu" else len(rows)
        # The last part takes what is left, so that no part has few groups alone: these are summed otherwise.
        starts = [*range(0, max(len(rows) - size, 0) + 1, max(size, 1))]
        parts = [
            self._quantised(rows[start:end], None if importance is None else importance[start:end])
            for start, end in zip(starts, [*starts[1:], len(rows)], strict=True)
        ]
        codes = torch.cat([codes for codes, _ in parts])
        stored = {part: torch.cat([numbers[part] for _, numbers in parts]) for part in self.parts}
        return codes.reshape(weight.shape), {
            part: value.reshape(weight.shape[0], -1) for part, value in stored.items()
        }

    def _quantised(self, rows: Tensor, importance: Tensor | None) -> tuple[Tensor, Stored]:
        """Return the codes and the stored numbers of rows of one group each, as `quantise` does."""
        stored = self.fit(rows, importance)
        step, offset = self.steps(stored)
        codes = self.encode(
            rows.reshape(-1, self.subgroup),
            step.reshape(-1, 1),
            None if offset is None else offset.reshape(-1, 1),
        )
        return codes.reshape(rows.shape), stored

    def dequantise(self, codes: Tensor, stored: Stored) -> Tensor:
        """Return the float32 [out, in] values of codes [out, in]."""
        out, width = codes.shape
        step, offset = self.steps(stored)
        values = self.decode(
            codes.reshape(out, -1, self.subgroup),
            step[:, :, None],
            None if offset is None else offset[:, :, None],
        )
        return values.reshape(out, width)

    def holds(self, stored: Stored) -> bool:
        """Return whether the grid can hold these numbers together. The caller has already checked the dtype
        and the bounds of each number by itself.
        """
        return True

    def require_reach(self, weight: Tensor, reach: float) -> None:
        """Raise CalibrationError where a weight is not finite, or is more than `reach` times the largest
        float16 number.
        """
        largest = weight.abs().amax(1)
        # One answer is read, and it is false for NaN, too: each number that is read waits for a GPU.
        if bool((largest / reach <= torch.finfo(torch.float16).max).all()):
            return
        if not bool(torch.isfinite(largest).all()):
            raise CalibrationError(f"a weight is not finite, so no {self.name} scale fits it")
        raise CalibrationError(
            f"a weight of {float(largest.max()):.3g} is beyond the reach of a float16 {self.name} scale"
        )


def inverse(steps: Tensor) -> Tensor:
    """Return 1 / steps in float32, and 0 where the step is 0, so that codes under a step of 0 become 0."""
    exact = steps.float()
    return exact.reciprocal().masked_fill_(exact == 0, 0.0)


@cache
def _table(levels: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(levels, dtype=torch.float32, device=device)


@cache
def _nearest(levels: tuple[int, ...], device: torch.device) -> Tensor:
    """Return the index of the nearest level for each interval [k / 2, (k + 1) / 2), where k counts up from
    twice the lowest level.
    """
    middles = torch.arange(2 * levels[0], 2 * levels[-1] + 1, dtype=torch.float64) / 2 + 0.25
    return (middles[:, None] - torch.tensor(levels)).abs().argmin(1).to(device, torch.int32)
