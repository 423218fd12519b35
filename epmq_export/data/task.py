"""A task with its data read: the samples to calibrate on, and those to judge by."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from torch import Tensor

from epmq_export.models.samples import Sample, digest


class Metric(StrEnum):
    """The measures that judge a language model's answers in words."""

    EXACT_MATCH = "exact_match"
    """The share of answers that are the right one, word for word."""

    SPEARMAN = "spearman"
    """The rank correlation of the numbers that are answered with the right ones."""


@dataclass(frozen=True)
class Task:
    """One task of a recipe with its data read."""

    name: str
    expert: str
    """The expert's location: the absolute path of a directory, or an id of the hub."""

    calibration: Sequence[Sample]
    evaluation: Sequence[Sample]
    truth: Tensor | None
    """The right class of each sample of `evaluation`, int64 [len(evaluation)], as an index into `labels`.
    None for a task without labels.
    """

    labels: list[str]
    prompts: list[list[str]]
    """The texts that are embedded for each label, or the one text that answers a language model's prompt.
    Empty for a task without labels, as `labels` is.
    """

    head: Path | None = None
    """A safetensors file with the task's linear head, in place of prompts."""

    notes: list[str] = field(default_factory=list)
    """What was left out, a sentence each."""

    metric: Metric | None = None
    """The measure that judges answers in words. None for all other tasks."""

    expected: Sequence[str] | None = None
    """The right answer to each sample of `evaluation`, where there is a metric."""

    places: Mapping[Sample, str] = field(default_factory=dict)
    """The place of each text, as messages name it: `data/train.csv:3`."""

    data: Mapping[str, str] = field(default_factory=dict)
    """The SHA-256 of data that are no files of the user's, by name."""

    further: Sequence[Sample] = ()
    """The samples that the model is refined on, beside those of `calibration`."""

    @property
    def evaluated(self) -> str:
        """Return the hex SHA-256 of the samples of `evaluation` in their order, each with its right answer.
        Tasks that have the same one are judged on the same lines.
        """
        right: Sequence[str | None] = [None] * len(self.evaluation)
        if self.truth is not None:
            right = [self.labels[place] for place in self.truth.tolist()]
        elif self.expected is not None:
            right = self.expected
        whole = hashlib.sha256()
        for sample, answer in zip(self.evaluation, right, strict=True):
            whole.update(json.dumps([digest(sample), answer]).encode())
        return whole.hexdigest()
