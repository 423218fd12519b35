"""What a file holds besides the calibrated blocks: a frozen tower, projections, scales. Theirs are the
merge's values, rounded once.
"""

import torch

from epmq_export.calibration.calibrate import BlockResult
from epmq_export.calibration.rounding import store
from epmq_export.grids.layout import Layout, Storage
from epmq_export.models.family import Block, Family
from epmq_export.tensors.packed import PackedTensor
from epmq_export.tensors.source import TensorSource


def linears(family: Family) -> list[str]:
    """The weights of the text tower's linears, where it is not the family itself: a recipe's patterns may put
    them on a grid.
    """
    tower = family.text_tower
    if tower is None or tower is family:
        return []
    return [name for block in tower.blocks for name in _linears(block)]


def rest(family: Family, merged: TensorSource, layout: Layout) -> BlockResult:
    """All tensors of no block. The text tower's linears are F16, or on the grid of the first pattern that
    matches, rounded to the nearest.
    """
    known = {f"{block.prefix}{path}" for block in family.blocks for path in block.build().state_dict()}
    matrices = set(linears(family))
    tensors: dict[str, PackedTensor | torch.Tensor] = {}
    notes: list[str] = []
    for name in merged.names():
        if name in known:
            continue
        value = merged.load(name).float()
        storage: Storage = layout.half if name in matrices or name in family.halves else torch.float32
        note = None
        if name in family.embeddings:
            storage, note = layout.embedding(name, tuple(value.shape))
        elif name in matrices and layout.pattern(name) is not None:
            storage, note = layout.linear(name, tuple(value.shape))
        notes += [note] if note is not None else []
        tensors[name] = store(name, value, storage)
    return BlockResult(tensors, [], notes)


def _linears(block: Block) -> list[str]:
    module = block.build()
    paths = [path for step in block.steps for path in step]
    return [
        f"{block.prefix}{path}.weight"
        for path in paths
        if isinstance(module.get_submodule(path), torch.nn.Linear)
    ]
