"""What is refined behind the calibration, where a recipe leaves that to the model and its samples."""

from epmq_export.calibration.refinement import Refinement
from epmq_export.models.family import Family
from epmq_export.recipe.recipe import Recipe

FEWEST = 32
"""The samples of a task from which on biases and norms are refined without being asked for: fewer hold out
fewer than four, which tell too little of when to stop.
"""


def refinement_of(recipe: Recipe, family: Family, samples: int) -> Refinement | None:
    """Return what is refined, None where nothing is. `samples` are those of the task that has fewest.

    `calibration.refine: auto` refines models that embed texts or images alone: language models have few
    biases, and a pass through one of their size costs more than it gains.
    """
    asked = recipe.calibration.refinement
    if recipe.calibration.refine == "auto" and (family.language is not None or samples < FEWEST):
        return None
    return asked
