"""The task vectors of the experts, tau_t = W_t - W_0: how long they are, and how much they have in common."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice

import torch
from torch import Tensor

from epmq_export.errors import CalibrationError
from epmq_export.tensors.low_rank import LowRank, added_to, row_products
from epmq_export.tensors.source import TensorSource

CPU = torch.device("cpu")
# Lengths that differ so many times, and shares in common beyond this, are worth a warning.
APART, ALIKE = 3.0, 0.5


@dataclass(frozen=True)
class TaskVectors:
    """What was measured of the task vectors over some tensors together, with Frobenius norms."""

    base: float
    """||W_0||."""

    lengths: Sequence[float]
    """||tau_t|| of each expert."""

    distinct: Sequence[float]
    """r_t = min(1, ||tau_t||^2 / <tau_t, sum_s tau_s>) of each expert, and 1 where that product is not above
    0: 1 for a task vector that is orthogonal to the others, and 1/k for each of k equal ones.
    """

    merged: float
    """||W_m - W_0||, or 0 where no merge was given."""

    def sentence(self, names: Sequence[str]) -> str:
        """Return in words how long each is, as a share of the base, and how much they have in common."""
        shares = [length / self.base if self.base > 0 else 0.0 for length in self.lengths]
        each = ", ".join(f"{name} {100 * share:.2g} %" for name, share in zip(names, shares, strict=True))
        common = 100 * (1 - sum(self.distinct) / len(self.distinct))
        return f"{each} of the base's length, {common:.0f} % of them in common"

    def warnings(self, names: Sequence[str]) -> list[str]:
        """Return a sentence for each property of theirs by which merges are known to fail."""
        found = []
        order = sorted(range(len(names)), key=lambda t: self.lengths[t])
        shortest, longest = order[0], order[-1]
        if self.lengths[longest] > APART * self.lengths[shortest] > 0:
            times = self.lengths[longest] / self.lengths[shortest]
            found.append(
                f"task vectors differ {times:.1f} times in length: {names[longest]} has the longest and "
                f"{names[shortest]} the shortest, which a merge may drown; see its accuracy in the report"
            )
        alike = [name for name, share in zip(names, self.distinct, strict=True) if 1 - share >= ALIKE]
        if len(alike) > 1:
            found.append(
                f"most of what changes in each of {', '.join(alike)} changes in another expert, too: they "
                "count as fewer"
            )
        return found


def task_vectors(
    base: TensorSource,
    experts: Sequence[TensorSource],
    names: Iterable[str],
    merged: TensorSource | None = None,
    device: torch.device = CPU,
) -> TaskVectors:
    """Measure the experts' task vectors over the tensors of `names` together, on the device.

    Every tensor of an expert is read twice, one at a time, and an adapter on this base only by its factors.
    Raises CalibrationError where the lengths are not
    finite.
    """
    squares, products, lengths = (
        torch.zeros(count, dtype=torch.float64, device=device) for count in (len(experts), len(experts), 2)
    )
    for name in names:
        origin = base.load(name).float()
        factors = [added_to(source, name, origin) for source in experts] if origin.ndim == 2 else []
        adapters = [factor.to(device) for factor in factors if factor is not None]
        start = origin.to(device).double()
        if len(adapters) == len(experts):
            both = _of_adapters(adapters)
        else:
            twice = (source for _ in range(2) for source in experts)
            vectors = (source.load(name).to(device).double() - start for source in twice)
            both = _of_tensors(vectors, len(experts))
        squares += both[0]
        products += both[1]
        lengths[0] += start.square().sum()
        if merged is not None:
            lengths[1] += (merged.load(name).to(device).double() - start).square().sum()
    distinct = torch.where(products > squares, squares / products, 1.0)
    found = torch.cat([squares.sqrt(), distinct, lengths.sqrt()]).cpu().tolist()  # A GPU is waited for once.
    if not all(map(math.isfinite, found)):
        raise CalibrationError(
            "the length of the task vectors is not finite; look for NaN or Inf in the checkpoints"
        )
    count = len(experts)
    return TaskVectors(
        base=found[-2], lengths=found[:count], distinct=found[count : 2 * count], merged=found[-1]
    )


def _of_adapters(adapters: Sequence[LowRank]) -> Tensor:
    """Return <tau_t, tau_t> and <tau_t, sum_s tau_s> of each task vector of a matrix, float64
    [2, experts].
    """
    products = torch.stack(
        [torch.stack([row_products(one, other).sum() for other in adapters]) for one in adapters]
    )
    return torch.stack([products.diagonal(), products.sum(1)])


def _of_tensors(vectors: Iterator[Tensor], count: int) -> Tensor:
    """Return the same of `count` task vectors of a tensor, which come twice, one at a time."""
    total = torch.zeros(())
    for vector in islice(vectors, count):
        total = total.to(vector) + vector
    return torch.stack([torch.stack([(each * each).sum(), (each * total).sum()]) for each in vectors], 1)
