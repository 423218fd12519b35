"""The calibrated model as it is before rounding, whose score tells what calibration loses from what rounding
loses.
"""

from itertools import chain
from pathlib import Path

from epmq_export.calibration.calibrate import calibrate_blocks
from epmq_export.calibration.calibrator import Calibrator
from epmq_export.calibration.method import Method
from epmq_export.calibration.uncalibrated import rest
from epmq_export.grids.layout import FULL
from epmq_export.models.precision import whole_float32
from epmq_export.pipeline.calibrate import task_data
from epmq_export.pipeline.job import Job
from epmq_export.pipeline.progress import Update
from epmq_export.tensors.packed import Packed, flatten
from epmq_export.tensors.safetensors_file import SafetensorsFile, write_safetensors
from epmq_export.tensors.source import Joined, TensorSource, TypedSource


@whole_float32()
def unrounded(job: Job, packed: Packed, folder: Path, progress: Update) -> TensorSource:
    """Return the model that the method of a packed checkpoint gives where nothing is rounded. It lies in
    `folder`, 4 bytes a weight.

    This calibrates again, because the solutions of the packed checkpoint's own calibration are others: each
    was found behind blocks that were rounded, and makes up for their rounding. The method's numbers are those
    that were used, also where `tune` found them. `refine`, which follows the rounding, has no part in it.
    Raises CalibrationError where the numbers cannot be solved.
    """
    models = job.models
    calibrator = Calibrator(
        family=models.family,
        base=models.base,
        merged=models.merged,
        tasks=[task_data(job, task) for task in job.tasks],
        method=Method(**packed.index.method),
        layout=FULL,
        device=job.device,
        progress=progress,
    )
    solved = (result for _, result in calibrate_blocks(calibrator))
    parts: list[TypedSource] = []
    for number, result in enumerate(chain(solved, rest(models.family, models.merged, FULL))):
        path = folder / f"{number}.safetensors"
        write_safetensors(path, flatten(result.tensors)[0])
        parts.append(SafetensorsFile(path))
    return Joined(parts)
