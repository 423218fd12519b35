"""A task of pictures with its data."""

import logging
import os
from collections.abc import Iterable, Mapping, Sequence

import torch
from torch import Tensor

from epmq_export.data.images import read_pictures
from epmq_export.data.labels import indices_of, worded
from epmq_export.data.pictures import Pictures
from epmq_export.data.task import Task
from epmq_export.errors import InputError
from epmq_export.models.classifiers import Classifier
from epmq_export.models.samples import Picture, choose
from epmq_export.pipeline.tasks.shared import (
    by_head,
    divided,
    judged_by_expert,
    labelled,
    made_of,
    on_names,
    others,
    tell,
)
from epmq_export.recipe.recipe import Recipe
from epmq_export.recipe.task import request_of

log = logging.getLogger(__name__)


def picture_task(recipe: Recipe, name: str, head: Classifier | None, lessons: int) -> Task:
    """Return a task of pictures, `lessons` of which the model is refined on. `head` is the task's classifier,
    where it has one.

    Raises InputError where none of its calibration images can be decoded.
    """
    task = recipe.tasks[name]
    read = [read_pictures(request_of(place)) for place in task.calibration]
    pictures = _distinct(picture for each in read for picture in each.samples)
    broken = _Broken()
    calibration = choose(pictures, recipe.calibration.samples, recipe.calibration.seed, broken.usable)
    if not calibration:
        raise InputError(
            f"task {name}: none of its {len(pictures)} calibration images can be decoded, the first: "
            f"{broken.first}"
        )
    labels: Mapping[str, str] = task.labels or {}
    truth: Tensor | None = None
    told: Sequence[str] = ()
    evaluation: Sequence[Picture]
    further: Sequence[Picture] = ()
    if task.evaluation is None:
        # These are calibration images, too, so those that cannot be decoded are left out here as well.
        further, evaluation = divided(recipe, name, pictures, calibration, lessons, broken.usable)
    else:
        found = read_pictures(request_of(task.evaluation), "test")
        evaluation, read = found.samples, [*read, found]
        if head is not None:
            truth, told = _by_head(recipe, name, head, found)
        elif labels or task.templates or task.head is not None:
            labels = labels or {each: worded(each) for each in _names(recipe, name, found)}
            classes = labelled(recipe, name, found.classes, "images")
            places = [picture.place for picture in evaluation]
            truth = torch.tensor(indices_of(places, classes, found.names, list(labels)), dtype=torch.int64)
        for picture in evaluation:
            picture.pixels()  # A broken image is reported now and not after the calibration.
        chosen = choose(pictures, lessons, recipe.calibration.seed, broken.usable)
        further = others(chosen, calibration, evaluation)
    usable = len(calibration) + len(further) + (0 if task.evaluation else len(evaluation))
    notes = [*told, *broken.notes(recipe, name, usable)]
    tell(name, "image", recipe.calibration.samples, calibration, evaluation)
    return made_of(
        recipe,
        name,
        calibration=calibration,
        further=further,
        evaluation=evaluation,
        labels=labels if head is None else dict.fromkeys(head.classes, ""),
        truth=truth,
        embeds=head is None,
        notes=notes,
        read=read,
    )


def _by_head(
    recipe: Recipe, name: str, head: Classifier, found: Pictures
) -> tuple[Tensor | None, Sequence[str]]:
    """Return the right classes of the evaluation images as the head's, and sentences on them; None for images
    without labels. Raises RecipeError for a head that gives a number, which no label of images is.
    """
    asked = [*(recipe.tasks[name].labels or head.classes)]
    if found.classes is None and not recipe.tasks[name].labels:
        return None, [judged_by_expert(name, "images")]
    classes = labelled(recipe, name, found.classes, "images")
    if head.numbers:
        raise recipe.mistake(
            ("tasks", name, "evaluation"),
            "found images with labels, expected images alone: its expert gives a number in place of a class",
        )
    places = [picture.place for picture in found.samples]
    truth = by_head(head, asked, indices_of(places, classes, found.names, asked))
    return truth, on_names(name, found.names or () if found.counted else (), asked)


def _distinct(pictures: Iterable[Picture]) -> list[Picture]:
    """Return each picture once, where it comes first."""
    found: dict[str, Picture] = {}
    for picture in pictures:
        found.setdefault(picture.digest, picture)
    return list(found.values())


class _Broken:
    """The calibration images that were chosen and cannot be decoded."""

    def __init__(self) -> None:
        self._reasons: dict[str, str] = {}

    @property
    def first(self) -> str:
        """Return the reason why the first of them cannot be decoded."""
        return next(iter(self._reasons.values()))

    def usable(self, picture: Picture) -> bool:
        """Return whether a picture can be decoded."""
        if picture.digest not in self._reasons:
            try:
                picture.pixels()
            except InputError as error:
                self._reasons[picture.digest] = str(error)
        return picture.digest not in self._reasons

    def notes(self, recipe: Recipe, name: str, usable: int) -> list[str]:
        """Return a sentence for the report where there are broken images, and log it.

        Paths in it are relative to the recipe, so that it is the same on every machine.
        """
        if not self._reasons:
            return []
        count, first = len(self._reasons), self.first.replace(f"{recipe.directory}{os.sep}", "")
        note = (
            f"task {name}: {count} of {count + usable} calibration images cannot be decoded and are left "
            f"out, the first: {first}"
        )
        log.warning("%s", note)
        return [note]


def _names(recipe: Recipe, name: str, found: Pictures) -> Sequence[str]:
    """Return the names of the classes of the evaluation images.

    Raises RecipeError where the images do not name them, or where there is only one.
    """
    if found.names is None or len(found.names) < 2:
        what = (
            "have no names of their own"
            if found.names is None
            else f"are all of the class {found.names[0]!r}"
        )
        raise recipe.mistake(
            ("tasks", name, "labels"), f"found nothing, expected the classes: the evaluation images {what}"
        )
    return found.names
