"""The tasks of a recipe with their data read: the samples to calibrate on, and those to judge by."""

import logging
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence

import torch
from torch import Tensor

from epmq_export.data.images import read_pictures
from epmq_export.data.labels import indices_of, worded
from epmq_export.data.pictures import Pictures
from epmq_export.data.task import Metric, Task
from epmq_export.data.text_rows import Text, Texts, answers_of, classes_of, numbers_of, prompted
from epmq_export.data.texts import read_texts
from epmq_export.errors import InputError
from epmq_export.models.classifiers import Classifier
from epmq_export.models.family import Family, heads_of
from epmq_export.models.samples import AnySample, Pair, Picture, Sample, choose, digest
from epmq_export.pipeline.refinement import lessons_of
from epmq_export.pipeline.requirements import require_kind
from epmq_export.recipe.recipe import Recipe
from epmq_export.recipe.task import request_of

log = logging.getLogger(__name__)


def load_tasks(recipe: Recipe, family: Family, names: Collection[str] | None = None) -> list[Task]:
    """Read the data of every task, or of those of the names, in the recipe's order: texts, each in the task's
    prompt, or pictures where the family reads those.
    """
    require_kind(recipe, family)
    tasks = [name for name in recipe.require_tasks().tasks if names is None or name in names]
    lessons = lessons_of(recipe, family)
    if family.images is not None:
        return [_of_pictures(recipe, name, lessons) for name in tasks]
    before = "" if family.zero_shot is None else family.zero_shot.prompts.default
    language = family.language
    chat = str if language is None else language.chat
    heads = {head.task: head for head in heads_of(family)}
    return [
        _of_texts(recipe, name, before, chat if recipe.tasks[name].chat else str, heads.get(name), lessons)
        for name in tasks
    ]


def _of_texts(
    recipe: Recipe,
    name: str,
    before: str,
    said: Callable[[str], str],
    head: Classifier | None,
    lessons: int,
) -> Task:
    """Return a task of texts, each in the task's prompt or, where it has none, behind `before`; or of pairs.
    `said` makes of a prompt what the model is given. `head` is the task's classifier, where it has one. It is
    refined on `lessons` texts.
    """
    task = recipe.tasks[name]
    read = [read_texts(request_of(place)) for place in task.calibration]
    ahead = "" if "prompt" in task.model_fields_set else before

    def given(text: Text) -> Sample:
        if task.pairs:
            first, second = (text.values[column] for column in task.pairs)
            return Pair(first, second)
        return said(ahead + prompted(task.prompt, text))

    places = {given(text): text.place for each in read for text in each.samples}
    texts = list(places)
    calibration = choose(texts, recipe.calibration.samples, recipe.calibration.seed)
    further: Sequence[Sample] = ()
    truth: Tensor | None = None
    expected: Sequence[str] | None = None
    if task.evaluation is None:
        evaluation = _left_over(recipe, name, texts, calibration)
    else:
        found = read_texts(request_of(task.evaluation), "test")
        evaluation = [given(text) for text in found.samples]
        read = [*read, found]
        places |= dict(zip(evaluation, found.places, strict=True))
        truth, expected = _right_answers(recipe, name, found, head)
        further = _others(choose(texts, lessons, recipe.calibration.seed), calibration, evaluation)
    _tell(name, "texts", recipe.calibration.samples, calibration, evaluation)
    return _task(
        recipe,
        name,
        calibration=calibration,
        further=further,
        evaluation=evaluation,
        labels=(task.labels or {}) if head is None else dict.fromkeys(head.classes, ""),
        truth=truth,
        expected=expected,
        embeds=head is None,
        places=places,
        read=read,
        before="" if task.templates else before,
        notes=[] if task.pairs else _on_prompt(name, ahead),
    )


def prompt_notes(recipe: Recipe, family: Family) -> list[str]:
    """Return the sentence on prompts of the base's library that none of them is the default of, where a task
    says no prompt.
    """
    prompts = None if family.zero_shot is None else family.zero_shot.prompts
    if prompts is None or prompts.default or not prompts.named:
        return []
    if all("prompt" in task.model_fields_set for task in recipe.tasks.values()):
        return []
    named = ", ".join(f"{name} {text!r}" for name, text in prompts.named.items())
    return [
        f"{recipe.base_model}: has the prompts {named} and none of them as the default, so texts stand "
        "behind none; a task's key `prompt` puts them behind one"
    ]


def _on_prompt(name: str, ahead: str) -> list[str]:
    """Return the sentence on what the model's own library puts before texts, where it does."""
    if not ahead:
        return []
    return [f"task {name}: its texts stand behind the base's default prompt {ahead!r}"]


def _right_answers(
    recipe: Recipe, name: str, found: Texts, head: Classifier | None
) -> tuple[Tensor | None, Sequence[str] | None]:
    """Return the classes of the evaluation texts; or the answers in words where the task has a metric, and
    the numbers where its classifier gives one.

    Both are None for a task without labels. Raises RecipeError for a task that has no classes and needs them.
    """
    task = recipe.tasks[name]
    if head is not None:
        if found.labels is None and not task.labels:
            return None, None
        _labelled(recipe, name, found.labels, "texts")
        if head.numbers:
            return None, [f"{number:g}" for number in numbers_of(found)]
        return torch.tensor(classes_of(found, head.classes), dtype=torch.int64), None
    if task.labels:
        _labelled(recipe, name, found.labels, "texts")
        classes = classes_of(found, list(task.labels))
        if task.metric is not None:
            return None, [[*task.labels.values()][index] for index in classes]
        return torch.tensor(classes, dtype=torch.int64), None
    if task.metric is not None:
        numbers = task.metric == Metric.SPEARMAN
        return None, [f"{number:g}" for number in numbers_of(found)] if numbers else answers_of(found)
    if task.head is not None or task.templates:
        raise recipe.mistake(
            ("tasks", name, "labels"),
            "found nothing, expected the classes, since the task has a head or templates",
        )
    return None, None


def _of_pictures(recipe: Recipe, name: str, lessons: int) -> Task:
    """Return a task of pictures, `lessons` of which the model is refined on.

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
    evaluation: Sequence[Picture]
    further: Sequence[Picture] = ()
    if task.evaluation is None:
        # These are calibration images, too, so those that cannot be decoded are left out here as well.
        evaluation = _left_over(recipe, name, pictures, calibration, broken.usable)
    else:
        found = read_pictures(request_of(task.evaluation), "test")
        evaluation, read = found.samples, [*read, found]
        if labels or task.templates or task.head is not None:
            labels = labels or {each: worded(each) for each in _names(recipe, name, found)}
            classes = _labelled(recipe, name, found.classes, "images")
            places = [picture.place for picture in evaluation]
            truth = torch.tensor(indices_of(places, classes, found.names, list(labels)), dtype=torch.int64)
        for picture in evaluation:
            picture.pixels()  # A broken image is reported now and not after the calibration.
        chosen = choose(pictures, lessons, recipe.calibration.seed, broken.usable)
        further = _others(chosen, calibration, evaluation)
    usable = len(calibration) + len(further) + (0 if task.evaluation else len(evaluation))
    notes = broken.notes(recipe, name, usable)
    _tell(name, "images", recipe.calibration.samples, calibration, evaluation)
    return _task(
        recipe,
        name,
        calibration=calibration,
        further=further,
        evaluation=evaluation,
        labels=labels,
        truth=truth,
        notes=notes,
        read=read,
    )


def _task(
    recipe: Recipe,
    name: str,
    *,
    calibration: Sequence[Sample],
    further: Sequence[Sample],
    evaluation: Sequence[Sample],
    labels: Mapping[str, str],
    truth: Tensor | None,
    read: Sequence[Texts | Pictures],
    expected: Sequence[str] | None = None,
    places: Mapping[Sample, str] | None = None,
    notes: Sequence[str] = (),
    before: str = "",
    embeds: bool = True,
) -> Task:
    """Return a task, from its samples and from what the recipe says about it. Label texts stand behind
    `before`, where the model embeds them.
    """
    task = recipe.tasks[name]
    templates = task.templates or ("{}",)
    prompts = [[before + template.format(text) for template in templates] for text in labels.values()]
    return Task(
        name=name,
        expert=recipe.location(task.expert),
        calibration=calibration,
        further=further,
        evaluation=evaluation,
        truth=truth,
        labels=list(labels),
        prompts=prompts if truth is not None and embeds else [],
        head=task.head,
        notes=list(notes),
        metric=None if task.metric is None else Metric(task.metric),
        expected=expected,
        places=places or {},
        data={place: sha256 for each in read for place, sha256 in each.data.items()},
    )


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


def _labelled(recipe: Recipe, name: str, labels: Sequence[object] | None, what: str) -> Sequence[object]:
    """Return the labels of the evaluation data. Raises RecipeError where they have none."""
    if labels is None:
        raise recipe.mistake(
            ("tasks", name, "evaluation"),
            f"found {what} without labels, expected labels, since the task has classes",
        )
    return labels


def _left_over(
    recipe: Recipe,
    name: str,
    samples: Sequence[AnySample],
    chosen: Sequence[AnySample],
    usable: Callable[[AnySample], bool] = lambda sample: True,
) -> list[AnySample]:
    """Return the distinct samples that were not chosen. Raises RecipeError where none is left."""
    taken = {digest(sample) for sample in chosen}
    left = [sample for sample in samples if digest(sample) not in taken and usable(sample)]
    if not left:
        message = (
            f"found {len(samples)} distinct samples, none left after calibration, expected more than "
            "calibration.samples, or an evaluation file"
        )
        raise recipe.mistake(("tasks", name, "calibration"), message)
    return left


def _others(chosen: Sequence[AnySample], *without: Sequence[Sample]) -> list[AnySample]:
    """Return the samples that are none of others."""
    taken = {digest(sample) for samples in without for sample in samples}
    return [sample for sample in chosen if digest(sample) not in taken]


def _tell(
    name: str, what: str, asked: int, calibration: Sequence[Sample], evaluation: Sequence[Sample]
) -> None:
    """Log a warning where there are fewer samples than asked for, and where evaluation samples are also
    calibration samples.
    """
    if len(calibration) < asked:
        log.warning(
            "task %s: %d distinct calibration %s, %d asked for: all are used",
            name,
            len(calibration),
            what,
            asked,
        )
    if shared := len({digest(each) for each in calibration} & {digest(each) for each in evaluation}):
        log.warning(
            "task %s: %d calibration %s are evaluation %s too, so its scores may flatter",
            name,
            shared,
            what,
            what,
        )
