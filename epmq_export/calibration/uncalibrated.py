"""What a file holds besides the calibrated blocks: a frozen tower, projections, scales. These are the merge's
values, rounded once.
"""

from collections.abc import Iterator
from math import prod

from torch import Tensor

from epmq_export.calibration.calibrator import BlockResult
from epmq_export.calibration.rounding import store
from epmq_export.calibration.storage import storage_of
from epmq_export.grids.layout import Layout
from epmq_export.models.family import Family
from epmq_export.tensors.packed import PackedTensor
from epmq_export.tensors.shards import groups
from epmq_export.tensors.source import TensorSource

# The bytes of float32 values that are stored together: few files, and little memory.
TOGETHER = 1 << 26


def rest(
    family: Family, merged: TensorSource, layout: Layout, together: int = TOGETHER
) -> Iterator[BlockResult]:
    """Yield all tensors that no block has, stored, in groups of at most `together` bytes of float32 values
    unless one alone is larger. What goes on a grid is rounded to the nearest.
    """
    known = {f"{block.prefix}{path}" for block in family.blocks for path in block.build().state_dict()}
    storage = storage_of(family, layout)
    sizes = {name: 4 * prod(merged.shape(name)) for name in merged.names() if name not in known}
    for names in groups(sizes, together) if sizes else ():
        tensors: dict[str, PackedTensor | Tensor] = {}
        notes: list[str] = []
        for name in names:
            value = merged.load(name).float()
            stored, note = storage(name, tuple(value.shape))
            notes += [note] if note is not None else []
            tensors[name] = store(name, value, stored)
        yield BlockResult(tensors, [], notes)
