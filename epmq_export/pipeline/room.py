"""The room on the disk that a job needs at the least, asked before its work."""

import tempfile
from collections.abc import Sequence
from math import prod
from pathlib import Path

from epmq_export import files
from epmq_export.files.room import require_room
from epmq_export.grids import GRIDS, Grid
from epmq_export.grids.layout import FULL
from epmq_export.merging.registry import RULES
from epmq_export.pipeline.forecast.planned import planned_tensors, tensor_shapes
from epmq_export.pipeline.job import Job
from epmq_export.pipeline.targets import Target
from epmq_export.tensors.packed import stored_bytes


def require_room_to_calibrate(job: Job, directory: Path, target: Target | None) -> None:
    """Raise OutputError where a calibration has no room for its finished blocks, its packed checkpoint, and a
    merge that is kept while it is read.
    """
    needed = 2 * packed_bytes(job, target) - _there(files.beside(directory, "blocks"))
    require_room({directory: needed, **_kept_merge(job)})


def require_room_to_run(job: Job, output: Path, targets: Sequence[Target]) -> None:
    """Raise OutputError where a run has no room for the packed checkpoints that are not there yet, and for
    the files of each format, which are as large at the least.
    """
    needed = 0
    for target in targets:
        size, done = packed_bytes(job, target), (output / target.directory).exists()
        needed += size * (len(target.formats) + (0 if done else 1))
    require_room({output: needed, **_kept_merge(job)})


def packed_bytes(job: Job, target: Target | None) -> int:
    """Return the bytes of the tensors of a packed checkpoint. Where a budget chooses grids, these are
    the smallest ones.
    """
    family, recipe = job.models.family, job.recipe
    layout = FULL if target is None else recipe.quantization.layout.replaced(target.replaced)
    searched = target is not None and recipe.quantization.chooses
    smallest = min((GRIDS[name].bits_per_weight for name in target.candidates), default=0) if target else 0
    total = 0.0
    for tensor in planned_tensors(family, tensor_shapes(family), layout, []).values():
        if searched and isinstance(tensor.storage, Grid):
            total += prod(tensor.shape) * smallest / 8
        else:
            total += stored_bytes(tensor.shape, tensor.storage)
    return int(total)


def _kept_merge(job: Job) -> dict[Path, int]:
    """Return the bytes of a merge that is kept among temporary files, by their place."""
    if not RULES[job.recipe.merge_method].costly:
        return {}
    merged = job.models.merged
    sizes = (prod(merged.shape(name)) * merged.dtype(name).itemsize for name in merged.names())
    return {Path(tempfile.gettempdir()): sum(sizes)}


def _there(directory: Path) -> int:
    """Return the bytes of an interrupted run's finished blocks."""
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))
