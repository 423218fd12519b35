"""A mixture of experts, in one module for all families: a router chooses some of its experts for each row.

The library keeps the experts' weights in one tensor each. Here they are linears of their own, under the names
of a checkpoint, which calibration solves one by one.
"""

from contextlib import nullcontext
from dataclasses import dataclass

import torch
from torch import Tensor, nn


class Mixture(nn.Module):
    """The sum of what the chosen experts make of a row, each by its share."""

    def __init__(self, gate: nn.Linear, experts: nn.ModuleList, chosen: int, whole: bool) -> None:
        """Take the router, the experts, how many of them are chosen for each row, and whether the shares of
        these are 1 together or their probabilities among all experts.
        """
        super().__init__()
        self.gate, self.experts, self.chosen, self.whole = gate, experts, chosen, whole

    def shares(self, value: Tensor) -> Tensor:
        """Return how much each expert counts for each row of [..., width], float32 [..., experts]: nothing
        where it is not chosen.
        """
        # In bfloat16 rows would take other ways than they do where the model is used. A graph has float32.
        with nullcontext() if _becomes_a_graph(value) else torch.autocast(value.device.type, enabled=False):
            odds = self.gate(value.float()).softmax(-1)
        found = odds.topk(self.chosen, -1)
        shares = found.values
        if self.whole:
            shares = shares / shares.sum(-1, keepdim=True)
        return torch.zeros_like(odds).scatter(-1, found.indices, shares)

    def forward(self, value: Tensor) -> Tensor:
        ways = [*zip(self.shares(value).unbind(-1), self.experts, strict=True)]
        if _becomes_a_graph(value):
            # A graph cannot tell rows apart: there every expert makes something of each of them.
            total = torch.zeros_like(value)
            for share, expert in ways:
                total = total + share[..., None] * expert(value)
            return total
        rows = value.flatten(0, -2)
        result = torch.zeros_like(rows)
        for share, expert in ways:
            taken = share.flatten().nonzero()[:, 0]
            if len(taken):
                result.index_add_(0, taken, share.flatten()[taken, None] * expert(rows[taken]))
        return result.view_as(value)


def _becomes_a_graph(value: Tensor) -> bool:
    return value.is_meta or torch.compiler.is_compiling()


@dataclass(frozen=True)
class Place:
    """The place of a linear in a mixture."""

    mixture: str
    """The path of the mixture."""

    expert: int
    path: str
    """The path within the expert."""

    @property
    def module(self) -> str:
        """Return the path of the expert."""
        return f"{self.mixture}.experts.{self.expert}"


def place_of(module: nn.Module, path: str) -> Place | None:
    """Return the place of a submodule in a mixture that the module has, or None."""
    parts = path.split(".")
    for end in range(1, len(parts) - 2):
        mixture = ".".join(parts[:end])
        if isinstance(module.get_submodule(mixture), Mixture) and parts[end] == "experts":
            return Place(mixture, int(parts[end + 1]), ".".join(parts[end + 2 :]))
    return None


def seen_at(module: nn.Module, path: str) -> str:
    """Return the path of the submodule at whose input a linear's is seen by all rows: its own or, in a
    mixture, which gives each expert some rows alone, the mixture's.
    """
    place = place_of(module, path)
    return path if place is None else place.mixture


def share_of(module: nn.Module, path: str) -> float | None:
    """Return the share of the rows that reach a linear where all experts of its mixture are chosen as often,
    or None for one that is in none.
    """
    if (place := place_of(module, path)) is None:
        return None
    mixture = module.get_submodule(place.mixture)
    assert isinstance(mixture, Mixture)
    return mixture.chosen / len(mixture.experts)
