"""What a group of weights can hold.

A grid fixes which codes exist, how many inputs share stored numbers, and how these are stored. Calibration
chooses codes and stored numbers on the grid of the file, so that packing is a permutation of bits and loses
nothing.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache

import torch
from torch import Tensor

from epmq_export.errors import CalibrationError

Stored = Mapping[str, Tensor]
"""What a file holds beside the codes, by part: each [rows, groups * count], the groups of a row one after the
other.
"""


@dataclass(frozen=True)
class Part:
    """One of a grid's stored numbers."""

    dtype: torch.dtype
    bits: int
    """That one takes in a GGUF file; an integer is below 2 ** bits."""

    count: int = 1
    """How many of them a group has."""


@dataclass(frozen=True)
class Grid(ABC):
    """Values step * level(code) + offset, with a step (and, on some grids, an offset) for every `subgroup`
    inputs.

    A solver that walks along the inputs calls `fit` where a group begins, `refit` where a subgroup begins,
    takes its steps from `column`, and then calls `encode` and `decode` for each input. One that knows better
    steps than `fit` asks `round` for the stored numbers that come nearest to them.
    """

    name: str
    group: int
    """Consecutive inputs that share stored numbers."""

    subgroup: int
    """Consecutive inputs that share a step."""

    lowest: int
    """The lowest code; the others follow without a gap."""

    levels: tuple[int, ...] = field(repr=False)
    """By code, rising. Equal to the codes where steps are even."""

    @property
    def highest(self) -> int:
        return self.lowest + len(self.levels) - 1

    @property
    def file_type(self) -> str:
        """llama.cpp's name of the bytes; that of a wider grid where this one is but a choice of its
        points.
        """
        return self.name

    @property
    def bits(self) -> int:
        """Of a code."""
        return (len(self.levels) - 1).bit_length()

    @property
    def bits_per_weight(self) -> float:
        """In a GGUF file, stored numbers included."""
        return self.bits + sum(part.bits * part.count for part in self.parts.values()) / self.group

    @property
    def even(self) -> bool:
        """Whether codes are levels."""
        return self.levels == tuple(range(self.lowest, self.highest + 1))

    @property
    @abstractmethod
    def parts(self) -> Mapping[str, Part]:
        """The stored numbers, `scales` (float16, one a group) always the first."""

    @abstractmethod
    def fit(self, weight: Tensor, importance: Tensor | None = None) -> Stored:
        """Stored numbers for rows of one group each, [rows, group]: those of least squared rounding error
        that a search finds.

        `importance`, [group] or [rows, group], weighs the errors. CalibrationError where a weight is not
        finite or beyond reach.
        """

    @abstractmethod
    def steps(self, stored: Stored) -> tuple[Tensor, Tensor | None]:
        """Step and offset (None: all 0) of each subgroup, float32 [rows, groups * group / subgroup], as the
        runtimes' decoders compute them.
        """

    @abstractmethod
    def round(self, step: Tensor, offset: Tensor | None = None) -> Stored:
        """The stored numbers that come nearest to wished steps and offsets, both as `steps` gives them."""

    def refit(self, stored: Stored, index: int, weight: Tensor, importance: Tensor | None = None) -> Stored:
        """The stored numbers of rows of one group each, those of subgroup `index` fitted anew to what its
        weights, [rows, subgroup], have become.
        """
        return stored

    def column(self, stored: Stored, index: int) -> tuple[Tensor, Tensor | None]:
        """Step and offset, [rows], of one subgroup."""
        step, offset = self.steps(stored)
        return step[:, index].contiguous(), None if offset is None else offset[:, index].contiguous()

    def fits(self, shape: tuple[int, ...]) -> bool:
        """Whether a [out, in] tensor divides into whole groups."""
        return len(shape) == 2 and shape[1] % self.group == 0

    def level(self, codes: Tensor) -> Tensor:
        """float32 levels of codes."""
        return codes.float() if self.even else _table(self.levels, codes.device)[codes.int() - self.lowest]

    def nearest_level_(self, ratios: Tensor) -> Tensor:
        """Each of `ratios`, float32, replaced by its nearest level."""
        if self.even:
            return ratios.round_().clamp_(self.lowest, self.highest)
        return ratios.copy_(_table(self.levels, ratios.device)[self._index(ratios)])

    def encode(self, weight: Tensor, step: Tensor, offset: Tensor | None = None) -> Tensor:
        """The nearest codes, int8, of weights under steps and offsets that broadcast to them; that of the
        level nearest to 0 where the step is 0.
        """
        ratios = (weight if offset is None else weight - offset) * inverse(step)
        return (
            self.nearest_level_(ratios).to(torch.int8)
            if self.even
            else (self._index(ratios) + self.lowest).to(torch.int8)
        )

    def _index(self, ratios: Tensor) -> Tensor:
        """That of the nearest level, int32. Levels are integers, so one is nearest all the way between two
        multiples of 1/2.
        """
        first, last = 2 * self.levels[0], 2 * self.levels[-1]
        halves = (ratios * 2).floor_().clamp_(first, last).to(torch.int32)
        return _nearest(self.levels, ratios.device)[
            halves.clamp_(first, last) - first
        ]  # again: what is not a number has become any integer

    def decode(self, codes: Tensor, step: Tensor, offset: Tensor | None = None) -> Tensor:
        """float32 values; bit for bit what the runtimes decode."""
        values = step * self.level(codes)
        return values if offset is None else values + offset

    def quantise(self, weight: Tensor, importance: Tensor | None = None) -> tuple[Tensor, Stored]:
        """Round each weight of [out, in] to the nearest: codes int8 [out, in], and stored numbers.
        `importance` is [in].
        """
        rows = weight.float().reshape(-1, self.group)
        if importance is not None:
            importance = importance.reshape(-1, self.group).repeat(weight.shape[0], 1)
        stored = self.fit(rows, importance)
        whole = {part: value.reshape(weight.shape[0], -1) for part, value in stored.items()}
        step, offset = self.steps(stored)
        codes = self.encode(
            rows.reshape(-1, self.subgroup),
            step.reshape(-1, 1),
            None if offset is None else offset.reshape(-1, 1),
        )
        return codes.reshape(weight.shape), whole

    def dequantise(self, codes: Tensor, stored: Stored) -> Tensor:
        """float32 [out, in] of codes [out, in]."""
        out, width = codes.shape
        step, offset = self.steps(stored)
        values = self.decode(
            codes.reshape(out, -1, self.subgroup),
            step[:, :, None],
            None if offset is None else offset[:, :, None],
        )
        return values.reshape(out, width)

    def holds(self, stored: Stored) -> bool:
        """Whether the grid has these numbers together; that each is of its own kind is known."""
        return True

    def require_reach(self, weight: Tensor, reach: float) -> None:
        """CalibrationError where a weight is not finite, or more than `reach` times float16's largest
        number.
        """
        largest = weight.abs().amax(1)
        if not torch.isfinite(largest).all():
            raise CalibrationError(f"a weight is not finite, so no {self.name} scale fits it")
        if bool((largest / reach > torch.finfo(torch.float16).max).any()):
            raise CalibrationError(
                f"a weight of {float(largest.max()):.3g} is beyond the reach of a float16 {self.name} scale"
            )


def inverse(steps: Tensor) -> Tensor:
    """1 / steps in float32; 0 where the step is 0, so that its codes are 0."""
    exact = steps.float()
    return exact.reciprocal().masked_fill_(exact == 0, 0.0)


@cache
def _table(levels: tuple[int, ...], device: torch.device) -> Tensor:
    return torch.tensor(levels, dtype=torch.float32, device=device)


@cache
def _nearest(levels: tuple[int, ...], device: torch.device) -> Tensor:
    """The index of the level nearest to each interval [k / 2, (k + 1) / 2), from twice the lowest level
    on.
    """
    middles = torch.arange(2 * levels[0], 2 * levels[-1] + 1, dtype=torch.float64) / 2 + 0.25
    return (middles[:, None] - torch.tensor(levels)).abs().argmin(1).to(device, torch.int32)
