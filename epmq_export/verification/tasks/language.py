"""The tasks of language models, each judged in its own way: by multiple choice, by answers in words, or by
the prediction of texts.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Protocol

import torch

from epmq_export.data.task import Task
from epmq_export.models import reference
from epmq_export.models.family import Family, language_of
from epmq_export.models.model_set import ModelSet
from epmq_export.models.samples import Passage, Sample, text_of
from epmq_export.verification.statistics.lines import Lines
from epmq_export.verification.tasks.bench import Outputs
from epmq_export.verification.tasks.comparison import Comparison, Measure
from epmq_export.verification.tasks.in_words import Answers
from epmq_export.verification.tasks.multiple_choice import Choice
from epmq_export.verification.tasks.perplexity import Prediction


class Trial(Protocol):
    """One task."""

    def outputs(self, run: Callable[[Sequence[Sample]], Outputs]) -> Outputs:
        """Return the outputs that a score is computed from."""
        ...

    @property
    def measure(self) -> Measure:
        """Return what it is judged by."""
        ...

    def lines(self, outputs: Outputs, expert: Outputs) -> Lines:
        """Return what the outputs make of each line. `expert` are the outputs of the task's expert."""
        ...

    def compare(self, outputs: Outputs, reference: Outputs) -> Comparison:
        """Return the outputs compared with the reference's."""
        ...

    def opening(self, lines: int) -> "Trial":
        """Return the task with its first lines only."""
        ...


@dataclass(frozen=True)
class LanguageBench:
    """The bench of language models."""

    tasks: Sequence[Task]
    trials: Mapping[str, Trial]
    experts: Mapping[str, Outputs]

    @classmethod
    def build(cls, sources: ModelSet, tasks: Sequence[Task], device: torch.device) -> "LanguageBench":
        """Return the tasks with the outputs of their experts, which run here.

        Raises InputError where the family is no language model, or has no room for a task's answers.
        """
        trials = {task.name: _trial(task, sources, device) for task in tasks}
        experts = {
            task.name: trials[task.name].outputs(
                partial(reference.outputs, sources.family, sources.experts[task.expert], device=device)
            )
            for task in tasks
        }
        return cls(tasks, trials, experts)

    def outputs(self, run: Callable[[Sequence[Sample]], Outputs]) -> dict[str, Outputs]:
        return {name: trial.outputs(run) for name, trial in self.trials.items()}

    def measure(self, task: Task) -> Measure:
        return self.trials[task.name].measure

    def lines(self, task: Task, outputs: Outputs) -> Lines:
        return self.trials[task.name].lines(outputs, self.experts[task.name])

    def compare(self, task: Task, outputs: Outputs, reference: Outputs) -> Comparison:
        return self.trials[task.name].compare(outputs, reference)

    def opening(self, lines: int) -> "LanguageBench":
        return replace(self, trials={name: trial.opening(lines) for name, trial in self.trials.items()})


def answers_of(task: Task, family: Family) -> Answers | None:
    """Return the questions of a task that is answered in words, or None for any other task.

    Raises InputError where the model has no room for its answers.
    """
    return (
        Answers.of(task, task.expected, family, [text_of(sample) for sample in task.evaluation])
        if task.expected is not None and family.language is not None
        else None
    )


def _trial(task: Task, sources: ModelSet, device: torch.device) -> Trial:
    """Return the way in which a task is judged."""
    family = sources.family
    if (answers := answers_of(task, family)) is not None:
        return answers
    passages = list(_passages(task, sources, device))
    return (
        Choice.of(task, task.truth, family, passages)
        if task.truth is not None
        else Prediction.of(task, family, passages)
    )


def _passages(task: Task, sources: ModelSet, device: torch.device) -> Iterator[Passage]:
    """Yield each sample with each label, cut to the length of the model. For a task without labels, yield
    each text whole, or the passage that the family is calibrated on in its place.
    """
    family = sources.family
    if task.truth is None:
        texts = [family.truncate(sample) for sample in task.evaluation]
        whole = language_of(family).passages(sources.experts[task.expert], texts, device)
        found = [sample if isinstance(sample, Passage) else Passage("", text_of(sample)) for sample in whole]
    else:
        found = [Passage(text_of(sample), answer) for sample in task.evaluation for (answer,) in task.prompts]
    for passage in found:
        cut = family.truncate(passage)
        assert isinstance(cut, Passage)
        yield cut
