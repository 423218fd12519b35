"""What all ranks but the first do of a job: their parts of its calibrations."""

import torch

from epmq_export.calibration.calibrate import calibrate_blocks
from epmq_export.calibration.calibrator import Calibrator, TaskData
from epmq_export.calibration.shared import asked
from epmq_export.grids.layout import FULL
from epmq_export.models.precision import whole_float32
from epmq_export.pipeline.models import open_checkpoints, open_models
from epmq_export.pipeline.registry import Registry
from epmq_export.ranks import Ranks
from epmq_export.recipe.recipe import Recipe


@whole_float32()
def take_part(recipe: Recipe, registry: Registry, device: torch.device, ranks: Ranks) -> None:
    """Calibrate with rank 0 whenever it asks for that, until its job is done. The samples come from there,
    and the results go there.

    Raises InputError where the models cannot be read here, and LostRank where another rank has ended.
    """
    recipe = recipe.require_tasks()
    models = open_models(
        recipe, open_checkpoints(recipe, registry.open_gguf, registry.naming_of), registry.open_family
    )
    calibrator = Calibrator(
        family=models.family,
        base=models.base,
        merged=models.merged,
        tasks=[
            TaskData(name, models.experts[recipe.location(task.expert)], ())
            for name, task in recipe.tasks.items()
        ],
        method=recipe.calibration.settings,
        layout=FULL,
        device=device,
        ranks=ranks,
    )
    for each in asked(calibrator):
        for _ in calibrate_blocks(each):
            pass
