"""The samples that a run of a recipe will work on, as far as its data are here."""

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from pathlib import Path

from epmq_export.calibration.calibrator import BATCH
from epmq_export.data.task import Task
from epmq_export.models.family import Family
from epmq_export.models.samples import length
from epmq_export.pipeline.forecast.costs import FLOAT, Samples
from epmq_export.pipeline.forecast.planned import tensor_shapes
from epmq_export.pipeline.refinement import lessons_of
from epmq_export.pipeline.tasks import load_tasks
from epmq_export.pipeline.trial import require_usable
from epmq_export.recipe.recipe import Recipe

TOKENS = 256
"""The length of a language model's text where nothing better is known."""


def tasks_here(recipe: Recipe, family: Family) -> list[Task]:
    """Return the tasks whose data are in files, tried as a run tries them. The hub's library would ask a
    network for those of others.
    """
    here = [
        name
        for name, task in recipe.tasks.items()
        if all(isinstance(place, Path) or place.path is not None for _, place in task.data)
    ]
    tasks = load_tasks(recipe, family, here)
    require_usable(family, tasks)
    return [*tasks]


def samples_of(recipe: Recipe, family: Family, tasks: Sequence[Task], unknown: list[str]) -> Samples:
    """Return what is calibrated on: of texts in files the very batches, else as many samples as the recipe
    asks for, each of the family's length.
    """
    asked = recipe.calibration.samples
    if len(tasks) == len(recipe.tasks):
        count = sum(len(task.calibration) for task in tasks)
        if family.images is not None:
            return Samples(len(tasks), count, _tokens(family), True)
        lengths = []
        for task in tasks:
            texts = sorted(map(family.truncate, task.calibration), key=length)
            lengths += [batch["input_ids"].shape for batch in family.batches(texts, BATCH)]
        return Samples(len(tasks), count, sum(prod(shape) for shape in lengths) / count, True)
    unknown.append(f"the data are not read: {asked} samples a task are assumed, as the recipe asks")
    return Samples(len(recipe.tasks), asked * len(recipe.tasks), _tokens(family), False)


def lessons_here(recipe: Recipe, family: Family, tasks: Sequence[Task], samples: Samples) -> Samples:
    """Return what is refined on: the samples to calibrate on and, of data that are read, those beside them;
    else as many as a model is refined on.
    """
    count = samples.samples + sum(len(task.further) for task in tasks)
    if not samples.exact:
        count = max(count, samples.tasks * lessons_of(recipe, family))
    return replace(samples, samples=count)


def batch_bytes(family: Family, samples: Samples) -> float:
    """Return the bytes that the first block reads of a sample: ids of 8 bytes with what comes beside them, or
    pixels.
    """
    images = family.images
    return 3 * 8 * samples.tokens if images is None else float(FLOAT * images.numbers)


def _tokens(family: Family) -> float:
    """Return the tokens of a sample where no data are read: of a picture all that it has, of a text the most
    that the model takes, where a table of positions says it.
    """
    if family.images is not None:
        return float(family.images.tokens)
    positions = [
        shape[-2]
        for name, shape in tensor_shapes(family).items()
        if "position_embedding" in name and len(shape) > 1
    ]
    return float(positions[0] if positions else TOKENS)
