"""A task of texts, or of pairs of texts, with its data."""

from collections.abc import Sequence

import torch
from torch import Tensor

from epmq_export.data.task import Metric, Task
from epmq_export.data.text_rows import Text, Texts, answers_of, classes_of, numbers_of, prompted
from epmq_export.data.texts import read_texts
from epmq_export.errors import InputError
from epmq_export.models.classifiers import Classifier
from epmq_export.models.family import Language
from epmq_export.models.samples import Pair, Sample, choose
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


def text_task(
    recipe: Recipe,
    name: str,
    before: str,
    language: Language | None,
    head: Classifier | None,
    lessons: int,
) -> Task:
    """Return a task of texts, each in the task's prompt or, where it has none, behind `before`; of pairs; or
    of conversations, as `language` puts them, the part of a language model. `head` is the task's classifier,
    where it has one. It is refined on `lessons` texts.
    """
    task = recipe.tasks[name]
    read = [read_texts(request_of(place)) for place in task.calibration]
    ahead = "" if "prompt" in task.model_fields_set else before
    said = language.chat if task.chat and language is not None else str

    def given(text: Text) -> Sample:
        if text.messages:
            return _conversation(recipe, name, text, language)
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
    notes = [] if task.pairs else _on_prompt(name, ahead)
    if task.evaluation is None:
        further, evaluation = divided(recipe, name, texts, calibration, lessons)
    else:
        found = read_texts(request_of(task.evaluation), "test")
        evaluation = [given(text) for text in found.samples]
        read = [*read, found]
        places |= dict(zip(evaluation, found.places, strict=True))
        truth, expected = _right_answers(recipe, name, found, head)
        if head is not None and truth is None and expected is None:
            notes.append(judged_by_expert(name, "texts"))
        if head is not None and truth is not None:
            notes += on_names(name, found.names or (), [*(task.labels or head.classes)])
        further = others(choose(texts, lessons, recipe.calibration.seed), calibration, evaluation)
    tell(name, "text", recipe.calibration.samples, calibration, evaluation)
    return made_of(
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
        notes=notes,
    )


def _conversation(recipe: Recipe, name: str, text: Text, language: Language | None) -> Sample:
    """Return a conversation as a model of that kind reads it. Raises InputError, with its place, for a base
    that is in none, and RecipeError for a task that asks something else of texts.
    """
    task = recipe.tasks[name]
    if language is None:
        raise InputError(
            f"{text.place}: found a conversation, expected a text: the base is no language model"
        )
    for key in ("labels", "metric", "prompt"):
        if key in task.model_fields_set:
            raise recipe.mistake(
                ("tasks", name, key),
                f"found it set, expected the key left out: {text.place} is a conversation, whose last answer "
                "is predicted",
            )
    try:
        return language.conversation(text.messages)
    except InputError as error:
        raise InputError(f"{text.place}: {error}") from None


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
        labelled(recipe, name, found.labels, "texts")
        if head.numbers:
            return None, [f"{number:g}" for number in numbers_of(found)]
        asked = [*(task.labels or head.classes)]
        return by_head(head, asked, classes_of(found, asked)), None
    if task.labels:
        labelled(recipe, name, found.labels, "texts")
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
