"""What tasks of texts and tasks of pictures share."""

import logging
from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from epmq_export.data.labels import Order
from epmq_export.data.pictures import Pictures
from epmq_export.data.task import Metric, Task
from epmq_export.data.text_rows import Texts
from epmq_export.models.classifiers import Classifier
from epmq_export.models.samples import AnySample, Sample, choose, digest
from epmq_export.recipe.recipe import Recipe

log = logging.getLogger(__name__)

_FEW = 8
"""The most classes that a sentence names."""


def made_of(
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


def labelled(recipe: Recipe, name: str, labels: Sequence[object] | None, what: str) -> Sequence[object]:
    """Return the labels of the evaluation data. Raises RecipeError where they have none."""
    if labels is None:
        raise recipe.mistake(
            ("tasks", name, "evaluation"),
            f"found {what} without labels, expected labels, since the task has classes",
        )
    return labels


def on_names(name: str, names: Sequence[str], classes: Sequence[str]) -> list[str]:
    """Return the sentence on classes that the data call by other names, so that only their order tells them,
    where there are any.
    """
    order = Order(classes)
    taken = [f"{own} for {classes[place]}" for place, own in enumerate(names) if order.place(own) is None]
    if not taken:
        return []
    more = f" (and {len(taken) - _FEW} more)" if len(taken) > _FEW else ""
    return [
        f"task {name}: its evaluation data have other names for classes, which are taken in their order: "
        f"{', '.join(taken[:_FEW])}{more}; the key labels tells another order"
    ]


def by_head(head: Classifier, asked: Sequence[str], indices: Sequence[int]) -> Tensor:
    """Return right classes as the head's, int64. `indices` are what data count, in the recipe's order
    `asked`, which need not be the head's.
    """
    places = [head.classes.index(each) for each in asked]
    return torch.tensor([places[each] for each in indices], dtype=torch.int64)


def judged_by_expert(name: str, what: str) -> str:
    """Return the sentence on a classifier's task without labels."""
    found = f"task {name}: its evaluation {what} have no labels"
    return f"{found}, so what its expert says of them is taken to be right"


def divided(
    recipe: Recipe,
    name: str,
    samples: Sequence[AnySample],
    calibration: Sequence[AnySample],
    lessons: int,
    usable: Callable[[AnySample], bool] = lambda sample: True,
) -> tuple[list[AnySample], list[AnySample]]:
    """Divide the distinct samples that were not taken for `calibration`, where no data of their own judge the
    task: those that the model is refined on, as many as `lessons` lacks but at most half of them, and those
    that judge. Raises RecipeError where none is left.
    """
    left = [sample for sample in others(samples, calibration) if usable(sample)]
    if not left:
        message = (
            f"found {len(samples)} distinct samples, none left after calibration, expected more than "
            "calibration.samples, or an evaluation file"
        )
        raise recipe.mistake(("tasks", name, "calibration"), message)
    count = min(max(lessons - len(calibration), 0), len(left) // 2)
    further = choose(left, count, recipe.calibration.seed)
    return further, others(left, further)


def others(chosen: Sequence[AnySample], *without: Sequence[Sample]) -> list[AnySample]:
    """Return the samples that are none of others."""
    taken = {digest(sample) for samples in without for sample in samples}
    return [sample for sample in chosen if digest(sample) not in taken]


def tell(
    name: str, what: str, asked: int, calibration: Sequence[Sample], evaluation: Sequence[Sample]
) -> None:
    """Log a warning where there are fewer samples than asked for, and where evaluation samples are also
    calibration samples. `what` is one of them.
    """
    if (count := len(calibration)) < asked:
        found = f"1 distinct calibration {what}" if count == 1 else f"{count} distinct calibration {what}s"
        log.warning("task %s: %s, %d asked for: all are used", name, found, asked)
    if shared := len({digest(each) for each in calibration} & {digest(each) for each in evaluation}):
        both = f"1 calibration {what} is an evaluation {what}"
        if shared > 1:
            both = f"{shared} calibration {what}s are evaluation {what}s"
        log.warning("task %s: %s too, so its scores may flatter", name, both)
