"""What is refined behind the calibration, where a recipe leaves that to the model and its samples."""

from epmq_export.calibration.refinement import LESSONS, WHOLE_LESSONS, Refinement
from epmq_export.models.family import Family
from epmq_export.recipe.recipe import Recipe

FEWEST = 32
"""The samples of a task from which on biases and norms are refined without being asked for: fewer hold out
fewer than four, which tell too little of when to stop.
"""


def refinement_of(recipe: Recipe, family: Family, fewest: int, samples: int) -> Refinement | None:
    """Return what is refined, None where nothing is. `fewest` are the samples to calibrate on of the task
    that has fewest of them, `samples` all those to refine on.

    `calibration.refine: auto` refines models that embed texts or images alone: language models have few
    biases, and a pass through one of their size costs more than it gains.
    """
    asked = recipe.calibration.refinement
    if recipe.calibration.refine == "auto" and (family.language is not None or fewest < FEWEST):
        return None
    return None if asked is None else asked.over(samples)


def lessons_of(recipe: Recipe, family: Family) -> int:
    """Return how many samples of a task the model is refined on, where so many are there; 0 where nothing is
    refined, and where that is done on those that it is calibrated on, as language models are, whose targets
    are long.
    """
    calibration = recipe.calibration
    asked = calibration.refinement
    if asked is None or family.language is not None:
        return 0
    if asked.weights:
        return WHOLE_LESSONS
    return 0 if calibration.refine == "auto" and calibration.samples < FEWEST else LESSONS
