"""The room on the disk that a job needs at the least, asked before its work."""

import tempfile
from collections.abc import Callable, Sequence
from math import prod
from pathlib import Path

from epmq_export import files
from epmq_export.files.room import require_room
from epmq_export.grids import GRIDS, Grid
from epmq_export.grids.layout import FULL, Storage
from epmq_export.merging.registry import RULES
from epmq_export.pipeline.forecast.planned import planned_tensors, tensor_shapes
from epmq_export.pipeline.job import Job
from epmq_export.pipeline.targets import Target
from epmq_export.tensors.packed import exported_bytes, stored_bytes


def require_room_to_calibrate(job: Job, directory: Path, target: Target | None) -> None:
    """Raise OutputError where a calibration has no room for its finished blocks, its packed checkpoint, and
    what it keeps among temporary files.
    """
    needed = 2 * packed_bytes(job, target) - _there(files.beside(directory, "blocks"))
    require_room({directory: needed, **_temporary(job)})


def require_room_to_run(
    job: Job, output: Path, targets: Sequence[Target], replaced: Sequence[Path] = ()
) -> None:
    """Raise OutputError where a run has no room for the packed checkpoints that are not there yet, and for
    the files of each format. What lies at `replaced` makes room for them, and goes only where it is enough.
    """
    needed = -sum(map(_size, replaced))
    for target in targets:
        place = output / target.directory
        needed += len(target.formats) * _bytes(job, target, exported_bytes)
        needed += 0 if place.exists() and place not in replaced else packed_bytes(job, target)
    kept = _temporary(job)
    if job.recipe.verify.unrounded:
        place = Path(tempfile.gettempdir())
        kept[place] = kept.get(place, 0) + packed_bytes(job, None)
    require_room({output: needed, **kept})


def packed_bytes(job: Job, target: Target | None) -> int:
    """Return the bytes of the tensors of a packed checkpoint. Where a budget of bits chooses grids, these are
    the smallest ones.
    """
    return _bytes(job, target, stored_bytes)


def _bytes(job: Job, target: Target | None, of: Callable[[tuple[int, ...], Storage], int]) -> int:
    """Return the sum of a function of each tensor's shape and storage."""
    family, recipe = job.models.family, job.recipe
    layout = FULL if target is None else recipe.quantization.layout.replaced(target.replaced)
    searched = [] if target is None or recipe.quantization.bits is None else target.candidates
    smallest = min((GRIDS[name] for name in searched), key=lambda grid: grid.bits_per_weight, default=None)
    planned = planned_tensors(family, tensor_shapes(family), layout, []).values()
    return sum(
        of(each.shape, smallest if smallest is not None and isinstance(each.storage, Grid) else each.storage)
        for each in planned
    )


def _temporary(job: Job) -> dict[Path, int]:
    """Return the bytes that a calibration keeps among temporary files, by their place: a merge that is read
    more often than it is computed, and the model of a trial of `tune`, which is in full precision.
    """
    needed = 0
    if RULES[job.recipe.merge_method].costly:
        merged = job.models.merged
        needed += sum(prod(merged.shape(name)) * merged.dtype(name).itemsize for name in merged.names())
    if job.recipe.calibration.tune:
        needed += packed_bytes(job, None)
    return {Path(tempfile.gettempdir()): needed} if needed else {}


def _size(place: Path) -> int:
    """Return the bytes of a file, or of all files in a directory."""
    return sum(path.stat().st_size for path in (place, *place.rglob("*")) if path.is_file())


def _there(directory: Path) -> int:
    """Return the bytes of an interrupted run's finished blocks."""
    return sum(path.stat().st_size for path in directory.glob("*.safetensors"))
