"""What the ranks of one calibration share. Rank 0 says what is to be done, and deals out the batches. Merged
tensors, and rows of solved ones, are put together of what each rank has made.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import Tensor

from epmq_export.calibration.calibrator import BATCH, Calibrator
from epmq_export.calibration.method import Method
from epmq_export.calibration.rounding import store
from epmq_export.errors import InputError
from epmq_export.grids import Grid
from epmq_export.grids.layout import Layout, Storage
from epmq_export.models.family import Batch, Block
from epmq_export.models.samples import length
from epmq_export.ranks import Ranks
from epmq_export.tensors.packed import PackedTensor, Values
from epmq_export.tensors.source import TensorSource


@dataclass(frozen=True)
class _Asked:
    """What rank 0 asks of the others: a calibration, in which it has set these."""

    tasks: Sequence[str]
    method: Method
    layout: Layout
    measured: bool
    """Whether rank 0 measures the solves."""


def begun(calibrator: Calibrator) -> Sequence[Sequence[Batch]]:
    """Begin a calibration. Rank 0 tells the others of it and deals out each task's batches; all get their
    own.
    """
    ranks = calibrator.ranks
    if ranks.index > 0:
        return ranks.dealt([])
    tasks = [task.name for task in calibrator.tasks]
    measured = calibrator.measure is not None
    ranks.same(_Asked(tasks, calibrator.method, calibrator.layout, measured))
    # Samples of similar length stand together.
    batches = [
        [*calibrator.family.batches(sorted(task.samples, key=length), BATCH)] for task in calibrator.tasks
    ]
    return ranks.dealt(_dealt(batches, ranks))


def _dealt(batches: Sequence[Sequence[Batch]], ranks: Ranks) -> Sequence[Sequence[Sequence[Batch]]]:
    """Return the batches of each task, for each rank. Those of one rank are of few tasks, so that it runs few
    experts.
    """
    costs = [sum(value.numel() for value in batch.values()) for each in batches for batch in each]
    owner = iter(ranks.owners(costs))
    owned = [[(batch, next(owner)) for batch in each] for each in batches]
    return [
        [[batch for batch, its in each if its == index] for each in owned] for index in range(ranks.count)
    ]


def asked(calibrator: Calibrator) -> Iterator[Calibrator]:
    """Yield every calibration that rank 0 asks for until all is done. `calibrator` has the models and the
    tasks' experts, without samples.

    Raises InputError where rank 0 has other tasks, as of another recipe.
    """
    none: _Asked | None = None
    while (found := calibrator.ranks.same(none)) is not None:
        own = {task.name: task for task in calibrator.tasks}
        if own.keys() != set(found.tasks):
            raise InputError(
                f"the recipe: found the tasks {', '.join(own)}, expected those of rank 0, "
                f"{', '.join(found.tasks)}"
            )
        yield replace(
            calibrator,
            tasks=[own[name] for name in found.tasks],
            method=found.method,
            layout=found.layout,
            measure=(lambda name, best, factor, loss: None) if found.measured else None,
        )


def merged_by_all(block: Block, merged: TensorSource, ranks: Ranks) -> TensorSource:
    """Return a source of a block's merged tensors. Several ranks merge each tensor once, and send it to the
    others as float32.
    """
    if ranks.count == 1:
        return merged
    names = [f"{block.prefix}{path}" for path in block.build().state_dict()]
    shapes = {name: merged.shape(name) for name in names}
    owners = ranks.owners([prod(shape) for shape in shapes.values()])
    found: dict[str, PackedTensor | Tensor] = {}
    for (name, shape), owner in zip(shapes.items(), owners, strict=True):
        found[name] = merged.load(name).float().contiguous() if owner == ranks.index else torch.empty(shape)
    for value, owner in zip(found.values(), owners, strict=True):
        assert isinstance(value, Tensor)
        ranks.send(value, owner)
    return Values(found)


def stored_by_all(name: str, value: Tensor, storage: Storage, ranks: Ranks) -> PackedTensor | Tensor:
    """Return a value as `rounding.store` does. What goes on a grid is rounded by all ranks, each its rows."""
    if not isinstance(storage, Grid):
        return store(name, value, storage)
    rows = ranks.share(len(value))
    return joined(store(name, value[rows], storage), len(value), ranks)


def joined(part: PackedTensor | Tensor, count: int, ranks: Ranks) -> PackedTensor | Tensor:
    """Return a tensor of `count` rows of which each rank has its share."""
    if isinstance(part, Tensor):
        return ranks.joined(part, count)
    stored = {name: ranks.joined(value, count) for name, value in part.stored.items()}
    return PackedTensor(part.grid, ranks.joined(part.codes, count), stored)
