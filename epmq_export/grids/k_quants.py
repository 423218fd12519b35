"""llama.cpp's K-quants: 256 inputs share one or two float16 numbers. Every 16 or 32 of these inputs, a
subgroup, have small integers that say which share of the float16 numbers is theirs.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from epmq_export.grids.grid import Grid, Part, Stored, inverse
from epmq_export.grids.search import fit_affine, fit_scale


@dataclass(frozen=True)
class ShiftedK(Grid):
    """Values d s code - e m, with float16 d and e for each group and integers s and m for each subgroup:
    Q2_K, Q4_K and Q5_K.

    Both products are exact in float32 and their difference is rounded once, so every runtime decodes the same
    bits.
    """

    share_bits: int
    """The bits that each of s and m takes."""

    @property
    def parts(self) -> Mapping[str, Part]:
        share = Part(torch.uint8, self.share_bits, self.group // self.subgroup)
        return {
            "scales": Part(torch.float16, 16),
            "mins": Part(torch.float16, 16),
            "subscales": share,
            "submins": share,
        }

    def fit(self, weight: Tensor, importance: Tensor | None = None) -> Stored:
        """Find the best step and offset of each subgroup, then the d and e that hold the largest of them, and
        then the best s and m under that d and e.
        """
        self.require_reach(weight, self._most)
        rows = weight.float().reshape(-1, self.subgroup)
        weights = None if importance is None else importance.expand_as(weight).reshape(-1, self.subgroup)
        step, offset = fit_affine(
            self, rows, weights, lambda step: step.clamp_min(0), lambda offset: offset.clamp_max(0)
        )
        stored = self.round(step.reshape(len(weight), -1), offset.reshape(len(weight), -1))
        count = self.group // self.subgroup
        shares = self._shares(
            stored["scales"].repeat_interleave(count), stored["mins"].repeat_interleave(count), rows, weights
        )
        return {**stored, **{part: share.reshape(len(weight), -1) for part, share in shares.items()}}

    def refit(self, stored: Stored, index: int, weight: Tensor, importance: Tensor | None = None) -> Stored:
        found = {part: stored[part].clone() for part in ("subscales", "submins")}
        for part, share in self._shares(
            stored["scales"][:, 0], stored["mins"][:, 0], weight, importance
        ).items():
            found[part][:, index] = share
        return {**stored, **found}

    def steps(self, stored: Stored) -> tuple[Tensor, Tensor]:
        return _spread(stored["scales"], stored["subscales"]), -_spread(stored["mins"], stored["submins"])

    def round(self, step: Tensor, offset: Tensor | None = None) -> Stored:
        scales, subscales = self._split(step)
        mins, submins = self._split(torch.zeros_like(step) if offset is None else -offset)
        return {"scales": scales, "mins": mins, "subscales": subscales, "submins": submins}

    @property
    def _most(self) -> int:
        return int(2**self.share_bits - 1)

    def _split(self, numbers: Tensor) -> tuple[Tensor, Tensor]:
        """Return the float16 number of each group, [rows, groups], and each subgroup's share of it, uint8
        [rows, groups * subgroups], for numbers [rows, groups * subgroups] that have one sign within a group.
        """
        whole = (_largest(numbers.reshape(-1, self.group // self.subgroup)) / self._most).half()
        whole = whole.reshape(len(numbers), -1)
        return whole, self._share(numbers, whole.repeat_interleave(self.group // self.subgroup, 1))

    def _share(self, numbers: Tensor, whole: Tensor) -> Tensor:
        return (numbers * inverse(whole)).round_().clamp_(0, self._most).to(torch.uint8)

    def _shares(
        self, scale: Tensor, least: Tensor, weight: Tensor, importance: Tensor | None
    ) -> dict[str, Tensor]:
        """Return the best s and m, uint8 [rows], of subgroups [rows, subgroup] under a given d and e,
        [rows].
        """
        step, offset = fit_affine(
            self,
            weight,
            importance,
            lambda step: scale.float() * self._share(step, scale),
            lambda offset: -least.float() * self._share(-offset, least),
        )
        return {"subscales": self._share(step, scale), "submins": self._share(-offset, least)}


@dataclass(frozen=True)
class ScaledK(Grid):
    """Values d s level(code), with a float16 d for each group and a signed integer s, stored with a bias, for
    each subgroup: Q3_K and Q6_K. The product is exact in float32.
    """

    share_bits: int
    reaches: tuple[float, ...] = field(repr=False)
    """The candidates of the search, as in `Scaled`."""

    @property
    def parts(self) -> Mapping[str, Part]:
        return {
            "scales": Part(torch.float16, 16),
            "subscales": Part(torch.uint8, self.share_bits, self.group // self.subgroup),
        }

    def fit(self, weight: Tensor, importance: Tensor | None = None) -> Stored:
        """Find the best step of each subgroup, then the d that holds the largest of them, and then the best s
        under that d.
        """
        self.require_reach(weight, self._bias)
        rows = weight.float().reshape(-1, self.subgroup)
        weights = None if importance is None else importance.expand_as(weight).reshape(-1, self.subgroup)
        stored = self.round(
            fit_scale(self, rows, weights, self.reaches, lambda step: step).reshape(len(weight), -1)
        )
        shares = self._fitted(stored["scales"].repeat_interleave(self.group // self.subgroup), rows, weights)
        return {**stored, "subscales": shares.reshape(len(weight), -1)}

    def refit(self, stored: Stored, index: int, weight: Tensor, importance: Tensor | None = None) -> Stored:
        found = stored["subscales"].clone()
        found[:, index] = self._fitted(stored["scales"][:, 0], weight, importance)
        return {**stored, "subscales": found}

    def steps(self, stored: Stored) -> tuple[Tensor, None]:
        return _spread(stored["scales"], stored["subscales"].int() - self._bias), None

    def round(self, step: Tensor, offset: Tensor | None = None) -> Stored:
        count = self.group // self.subgroup
        # s lies in [-bias, bias - 1], so the number of largest magnitude takes -bias.
        scales = (_largest(step.reshape(-1, count)) / -self._bias).half().reshape(len(step), -1)
        return {"scales": scales, "subscales": self._share(step, scales.repeat_interleave(count, 1))}

    @property
    def _bias(self) -> int:
        return int(2 ** (self.share_bits - 1))

    def _share(self, step: Tensor, scale: Tensor) -> Tensor:
        return ((step * inverse(scale)).round_().clamp_(-self._bias, self._bias - 1) + self._bias).to(
            torch.uint8
        )

    def _fitted(self, scale: Tensor, weight: Tensor, importance: Tensor | None) -> Tensor:
        """Return the best stored s, uint8 [rows], of subgroups [rows, subgroup] under a given d, [rows]."""
        step = fit_scale(
            self,
            weight,
            importance,
            self.reaches,
            lambda step: scale.float() * (self._share(step, scale).float() - self._bias),
        )
        return self._share(step, scale)


def _spread(whole: Tensor, shares: Tensor) -> Tensor:
    """Return the float32 products of each group's number and its subgroups' shares, [rows, groups *
    subgroups].
    """
    return whole.float().repeat_interleave(shares.shape[1] // whole.shape[1], 1) * shares.float()


def _largest(numbers: Tensor) -> Tensor:
    """Return the number of largest magnitude of each row, with its sign."""
    return numbers.gather(1, numbers.abs().argmax(1, keepdim=True))[:, 0]
