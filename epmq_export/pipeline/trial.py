"""The trial of a job's data before the work: whatever they can break later on is told now, with its place."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor

from epmq_export.data.task import Task
from epmq_export.errors import InputError
from epmq_export.models import reference
from epmq_export.models.family import Family
from epmq_export.models.samples import Passage, Picture, Sample, text_of
from epmq_export.verification.heads import linear_head
from epmq_export.verification.tasks.language import answers_of


def require_usable(family: Family, tasks: Sequence[Task]) -> None:
    """Raise InputError for a text that the model cannot be calibrated or scored on, for answers that it has
    no room for, and for a head that does not fit its outputs.
    """
    for task in tasks:
        _try_texts(family, task)
        answers_of(task, family)
    _try_heads(family, [task for task in tasks if task.head is not None and task.truth is not None])


def _try_texts(family: Family, task: Task) -> None:
    """Make the tokens of every text as calibration and scores will. Pictures are tried when they are read."""
    tried = [(sample, sample) for sample in (*task.calibration, *task.further)]
    tried += [(sample, passage) for sample in task.evaluation for passage in _scored(family, task, sample)]
    for sample, given in tried:
        if isinstance(sample, Picture):
            continue
        try:
            cut = family.truncate(given)
            for _ in family.batches([cut], 1):
                pass
        except InputError as error:
            reason = str(error).removeprefix(f"{family.directory}: ")
            raise InputError(f"{task.places.get(sample, f'task {task.name}')}: {reason}") from None


def _scored(family: Family, task: Task, sample: Sample) -> Iterator[Sample]:
    """Yield what a model is given to be scored on a sample, as far as no model has to run for it."""
    if family.language is None or (task.truth is None and task.expected is None):
        yield sample
        # A text without an answer is predicted from its own beginning, where one model reads and predicts.
        if family.language is not None and not family.language.encoder and isinstance(sample, str):
            yield Passage("", text_of(family.truncate(sample)))
    elif task.truth is not None:
        yield from (Passage(text_of(sample), answer) for (answer,) in task.prompts)
    else:
        yield sample


def _try_heads(family: Family, tasks: Sequence[Task]) -> None:
    if not tasks:
        return
    width = _width(family, tasks[0].calibration[0])
    for task in tasks:
        found = linear_head(task).weight.shape[1]
        if found != width:
            raise InputError(
                f"{task.head}: found a head for outputs that are {found} wide, expected {width}, the width "
                f"of the model of task {task.name}"
            )


def _width(family: Family, sample: Sample) -> int:
    """Return the width of a family's outputs, which zeros in place of its weights show."""
    shapes = {
        f"{block.prefix}{path}": tuple(value.shape)
        for block in family.blocks
        for path, value in block.build().state_dict().items()
    }
    return int(
        reference.outputs(family, _Zeros(shapes), [family.truncate(sample)], torch.device("cpu")).shape[1]
    )


@dataclass(frozen=True)
class _Zeros:
    """A source of tensors without weights."""

    shapes: Mapping[str, tuple[int, ...]]

    def names(self) -> Sequence[str]:
        return [*self.shapes]

    def shape(self, name: str) -> tuple[int, ...]:
        return self.shapes[name]

    def load(self, name: str) -> Tensor:
        return torch.zeros(prod(self.shapes[name])).reshape(self.shapes[name])
