"""The tensors of a file that lie outside the calibrated blocks: a frozen tower, projections, scales. They
have the values of the merge, rounded once.
"""

import torch

from epmq_export.calibration.calibrator import BlockResult
from epmq_export.calibration.rounding import store
from epmq_export.grids.layout import Layout, Storage
from epmq_export.models.blocks import linears
from epmq_export.models.family import Family, halves, towers
from epmq_export.tensors.packed import PackedTensor
from epmq_export.tensors.source import TensorSource


def carried_linears(family: Family) -> list[str]:
    """Return the names of the weights of the text tower's linears, where it is not the family itself: a
    recipe's patterns may put them on a grid.
    """
    _, *others = towers(family)
    return [name for tower in others for name in linears(tower)]


def rest(family: Family, merged: TensorSource, layout: Layout) -> BlockResult:
    """Return all tensors of no block. The linears of the text tower are F16, or on the grid of the first
    pattern that matches, rounded to the nearest.
    """
    known = {f"{block.prefix}{path}" for block in family.blocks for path in block.build().state_dict()}
    matrices, half = set(carried_linears(family)), halves(family)
    tensors: dict[str, PackedTensor | torch.Tensor] = {}
    notes: list[str] = []
    for name in merged.names():
        if name in known:
            continue
        value = merged.load(name).float()
        storage: Storage = layout.half if name in matrices or name in half else torch.float32
        note = None
        if name in family.embeddings:
            storage, note = layout.embedding(name, tuple(value.shape))
        elif name in matrices and layout.pattern(name) is not None:
            storage, note = layout.linear(name, tuple(value.shape))
        notes += [note] if note is not None else []
        tensors[name] = store(name, value, storage)
    return BlockResult(tensors, [], notes)
