"""The energy of each linear's outputs in the experts themselves, summed while their blocks run or, in a
mixture, once it is known which rows count.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from epmq_export.models.family import Batch, Block
from epmq_export.models.mixture import place_of
from epmq_export.ranks import ALONE, Ranks


class ExpertEnergies:
    """Weighted sums of ||W_t x_t||^2 over the rows of each task, for every linear of a block."""

    def __init__(self, block: Block, ranks: Ranks = ALONE) -> None:
        self._block, self._ranks = block, ranks
        self._sums: dict[tuple[str, int], Tensor] = {}
        self._weights: dict[tuple[str, int], float] = {}

    @contextmanager
    def of(self, module: nn.Module, t: int, batch: Batch) -> Iterator[None]:
        """Add what task t's expert computes of a batch in this context, but for the linears of mixtures."""
        handles = [
            linear.register_forward_hook(self._adder(step, path, t, batch))
            for step in self._block.steps
            for path in step
            if isinstance(linear := module.get_submodule(path), nn.Linear) and not place_of(module, path)
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def mean(self, path: str, t: int) -> float:
        """Return E ||W_t x_t||^2 of one linear, over the rows of all ranks, 0 where no row counts."""
        of_rank = float(self._sums.get((path, t), 0.0)), self._weights.get((path, t), 0.0)
        total, weight = self._ranks.total(*of_rank)
        return total / weight if weight else 0.0

    def add(self, path: str, t: int, made: Tensor, linear: nn.Linear, weights: Tensor) -> None:
        """Add rows [n, out] that task t's expert has made in a linear, which are overwritten. They count
        `weights` [n], which are on the processor.
        """
        if linear.bias is not None:
            made -= linear.bias
        shares = weights.to(made.device, non_blocking=True)
        # Sums of many rows and batches are in float64; those of one row need not be.
        total = made.square_().sum(1).double() @ shares.double()
        self._sums[path, t] = self._sums[path, t] + total if (path, t) in self._sums else total
        self._weights[path, t] = self._weights.get((path, t), 0.0) + float(weights.sum())

    def _adder(self, step: tuple[str, ...], path: str, t: int, batch: Batch) -> Callable[..., None]:
        def add(linear: nn.Linear, arguments: tuple[Tensor, ...], output: Tensor) -> None:
            # Which rows count is known on the processor, so that it need not wait for a GPU to tell it.
            weights = self._block.row_weights(step, batch, (output.shape[0], output.shape[1])).flatten()
            counted = (weights > 0).nonzero()[:, 0]
            made = output.flatten(0, 1)[counted.to(output.device, non_blocking=True)]
            self.add(path, t, made, linear, weights[counted])

        return add
