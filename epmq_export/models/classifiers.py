"""Classifiers: the heads that fine-tunes of one encoder bring. Each is a task's own, and all read the same
encoder.

    classifiers.json    the names of each task's classes, in the order of its scores, by the task's name
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from epmq_export.errors import InputError
from epmq_export.files import read_json

CLASSES = "classifiers.json"
"""The file beside config.json that names the tasks and their classes, in the order of the outputs."""

WEIGHTS = "classifiers.safetensors"
"""The file of the heads' tensors, as TASK.PART, beside a model that cannot hold them itself."""

PREFIX = "classifiers."
"""The beginning of the canonical names of the heads' tensors: `classifiers.0.out.weight` is of the first."""

SCORES = "logits"
"""The name of a model's output with the scores of its only classifier, and the beginning of the names of
several.
"""


@dataclass(frozen=True)
class Classifier:
    """The head of one task."""

    task: str
    """The name of the task."""

    classes: tuple[str, ...]
    """The names of its classes, in the order of its scores. A single one is the name of a number."""

    @property
    def numbers(self) -> bool:
        """Return whether it gives each text a number in place of a class."""
        return len(self.classes) == 1


def columns_of(heads: Sequence[Classifier]) -> dict[str, slice]:
    """Return the columns of a model's outputs that are each task's scores, by the task's name: the scores of
    several heads stand one behind the other.
    """
    found, first = {}, 0
    for head in heads:
        found[head.task] = slice(first, first + len(head.classes))
        first += len(head.classes)
    return found


def output_names(heads: Sequence[Classifier]) -> list[str]:
    """Return the names of a model's outputs with the scores of each head: `logits` where there is one,
    `logits_TASK` where there are several.
    """
    return [SCORES if len(heads) == 1 else f"{SCORES}_{head.task}" for head in heads]


def is_scores(output: str) -> bool:
    """Return whether an output of a model has that name."""
    return output == SCORES or output.startswith(f"{SCORES}_")


def classes_file(heads: Sequence[Classifier]) -> dict[str, bytes]:
    """Return the file that `read_classifiers` reads, by its name; none where there are no heads."""
    content = {head.task: list(head.classes) for head in heads}
    return {CLASSES: (json.dumps(content, indent=2) + "\n").encode()} if heads else {}


def read_classifiers(directory: Path) -> tuple[Classifier, ...]:
    """Return the heads that a model's directory names, in the order of its outputs; none where it has no such
    file. Raises InputError where the file is none.
    """
    path = directory / CLASSES
    if not path.is_file():
        return ()
    content = read_json(path)
    for task, classes in content.items():
        named = isinstance(classes, list) and bool(classes) and all(isinstance(name, str) for name in classes)
        if not named:
            raise InputError(f"{path}: found {classes!r:.80} for {task!r}, expected a list of classes' names")
    return tuple(Classifier(task, tuple(classes)) for task, classes in content.items())
