"""The tasks of a recipe with their data read: what to calibrate on, and what to judge by."""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from epmq_export.data.images import Pictures, read_pictures
from epmq_export.data.sample import AnySample, Picture, Sample, choose, digest
from epmq_export.data.texts import read_labelled, read_texts
from epmq_export.errors import InputError
from epmq_export.nearest import did_you_mean
from epmq_export.recipe import Recipe, RecipeImages
from epmq_export.recipe_values import worded

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Task:
    """One task of a recipe with its data read."""

    name: str
    expert: str
    """Where the expert is, as `Recipe.location` gives it."""

    calibration: Sequence[Sample]
    evaluation: Sequence[Sample]
    truth: Tensor | None
    """int64 [len(evaluation)], indices into `labels`; None for a task without labels."""

    labels: list[str]
    prompts: list[list[str]]
    """By label: the texts that are embedded for it. Both empty for a task without labels."""

    head: Path | None = None
    """A safetensors file with the task's linear head, in place of prompts."""

    notes: list[str] = field(default_factory=list)
    """What was left out, a sentence each."""

    data: Mapping[str, str] = field(default_factory=dict)
    """SHA-256 by name, of data that are no files of the user's."""


def load_tasks(recipe: Recipe, modality: str) -> list[Task]:
    """Read the data of every task, in the recipe's order: lines of text, or pictures where the modality is `image`."""
    load = _of_pictures if modality == "image" else _of_texts
    return [load(recipe, name) for name in recipe.require_tasks().tasks]


def _of_texts(recipe: Recipe, name: str) -> Task:
    task = recipe.tasks[name]
    for key, places in (("calibration", task.calibration), ("evaluation", [task.evaluation])):
        for place in places:
            if isinstance(place, RecipeImages):
                raise recipe.mistake(("tasks", name, key), "found a data set of images, expected a file of texts: the base model reads texts")
    texts = list(dict.fromkeys(text for path in task.calibration if isinstance(path, Path) for text in read_texts(path)))
    calibration = choose(texts, recipe.calibration.samples, recipe.calibration.seed)
    labels = dict(task.labels or {})
    truth: Tensor | None = None
    if not isinstance(task.evaluation, Path):
        evaluation = _left_over(recipe, name, texts, calibration)
    elif labels:
        pairs = read_labelled(task.evaluation, list(labels))
        evaluation = [text for _, text in pairs]
        truth = torch.tensor([index for index, _ in pairs], dtype=torch.int64)
    elif task.head is not None or task.templates:
        raise recipe.mistake(("tasks", name, "labels"), "found nothing, expected the classes, since the task has a head or templates")
    else:
        evaluation = read_texts(task.evaluation)
    _tell(name, "texts", len(texts), recipe.calibration.samples, calibration, evaluation)
    return Task(name, recipe.location(task.expert), calibration, evaluation, truth, list(labels), _prompts(labels, task.templates), task.head)


def _of_pictures(recipe: Recipe, name: str) -> Task:
    task = recipe.tasks[name]
    read = [read_pictures(_images(place)) for place in task.calibration]
    pictures = [picture for each in read for picture in each.samples]
    broken: list[str] = []
    calibration = choose(pictures, recipe.calibration.samples, recipe.calibration.seed, partial(_usable, broken))
    notes = []
    if broken:
        tried = len(calibration) + len(broken)
        notes.append(f"task {name}: {len(broken)} of {tried} calibration images cannot be decoded and are left out, the first: {broken[0]}")
        log.warning("%s", notes[-1])
    if not calibration:
        raise InputError(f"task {name}: none of its {len(pictures)} calibration images can be decoded, the first: {broken[0]}")
    labels = dict(task.labels or {})
    truth: Tensor | None = None
    evaluation: Sequence[Picture]
    if task.evaluation is None:
        evaluation = _left_over(recipe, name, pictures, calibration)
    else:
        found = read_pictures(_images(task.evaluation))
        evaluation, read = found.samples, [*read, found]
        if labels or task.templates or task.head is not None:
            if not labels and found.names is None:
                raise recipe.mistake(("tasks", name, "labels"), "found nothing, expected the classes: the evaluation images have no names of their own")
            labels = labels or {each: worded(each) for each in found.names or ()}
            truth = _truth(recipe, name, found, list(labels))
    for picture in evaluation:
        picture.pixels()  # what cannot be decoded is told now, not after the calibration
    _tell(name, "images", len(pictures), recipe.calibration.samples, calibration, evaluation)
    data = {place: each for pictures in read for place, each in pictures.data.items()}
    prompts = _prompts(labels, task.templates) if truth is not None else []
    return Task(name, recipe.location(task.expert), calibration, evaluation, truth, list(labels), prompts, task.head, notes, data)


def _images(place: Path | RecipeImages) -> RecipeImages:
    return place if isinstance(place, RecipeImages) else RecipeImages.model_construct(path=place)


def _usable(broken: list[str], picture: Picture) -> bool:
    try:
        picture.pixels()
    except InputError as error:
        broken.append(str(error))
        return False
    return True


def _truth(recipe: Recipe, name: str, found: Pictures, labels: list[str]) -> Tensor:
    """The indices of the pictures' labels: by name where the data have names, else as the data count them."""
    if found.labels is None:
        raise recipe.mistake(("tasks", name, "evaluation"), "found images without labels, expected labels, since the task has classes")
    order = {label: index for index, label in enumerate(labels)}
    indices = []
    for picture, label in zip(found.samples, found.labels, strict=True):
        index = order.get(found.names[label]) if found.names is not None else None
        if index is None and found.counted and label < len(labels):
            index = label
        if index is None:
            shown = found.names[label] if found.names is not None else str(label)
            raise InputError(f"{picture.place}: found the label {shown!r}, expected one of the task's {len(labels)} labels{did_you_mean(shown, labels)}")
        indices.append(index)
    return torch.tensor(indices, dtype=torch.int64)


def _prompts(labels: Mapping[str, str], templates: Sequence[str]) -> list[list[str]]:
    return [[template.format(text) for template in templates or ("{}",)] for text in labels.values()]


def _left_over(recipe: Recipe, name: str, samples: Sequence[AnySample], chosen: Sequence[AnySample]) -> list[AnySample]:
    taken = {digest(sample) for sample in chosen}
    left = [sample for sample in samples if digest(sample) not in taken]
    if not left:
        message = f"found {len(samples)} distinct samples, all taken for calibration, expected more than calibration.samples, or an evaluation file"
        raise recipe.mistake(("tasks", name, "calibration"), message)
    return left


def _tell(name: str, what: str, found: int, asked: int, calibration: Sequence[Sample], evaluation: Sequence[Sample]) -> None:
    if found < asked:
        log.warning("task %s: %d distinct calibration %s, %d asked for: all are used", name, found, what, asked)
    if shared := len({digest(each) for each in calibration} & {digest(each) for each in evaluation}):
        log.warning("task %s: %d calibration %s are evaluation %s too, so its scores may flatter", name, shared, what, what)
