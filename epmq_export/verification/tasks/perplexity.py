"""Texts without labels, every token of which is predicted from those before it.

The facts are those of llama.cpp's perplexity tool: the perplexity, the divergence KL(reference || file) in
nats with percentiles, and how often both find the same token likeliest.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from epmq_export.data.task import Task
from epmq_export.models.family import Family, language_of
from epmq_export.models.samples import Passage, Sample
from epmq_export.verification.statistics.lines import Graded, Lines
from epmq_export.verification.tasks.bench import Outputs
from epmq_export.verification.tasks.comparison import Comparison, Distance, Measure
from epmq_export.verification.tasks.likelihood import by_passage, divergence, likelihood

PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class Prediction:
    """A task of texts without labels."""

    task: Task
    passages: Sequence[Passage]
    targets: Sequence[list[int]]
    """The tokens that each passage's rows are to predict."""

    @classmethod
    def of(cls, task: Task, family: Family, passages: Sequence[Passage]) -> "Prediction":
        """Return the task with its targets."""
        language = language_of(family)
        return cls(task, passages, [language.targets(passage) for passage in passages])

    @property
    def tokens(self) -> list[int]:
        """Return the targets of all passages, in their order."""
        return [token for ids in self.targets for token in ids]

    def outputs(self, run: Callable[[Sequence[Sample]], Outputs]) -> Outputs:
        """Return the log-probabilities, float32 [tokens, vocabulary], mapped to a temporary file that goes
        with them.
        """
        held: np.memmap[Any, np.dtype[np.float32]] | None = None
        start = 0
        for rows, _ in by_passage(run, self.passages, self.targets, range(len(self.passages))):
            if held is None:
                # The file has no name. It leaves the disk when nothing maps it any more.
                with tempfile.TemporaryFile(prefix="epmq-") as file:
                    held = np.memmap(file, np.float32, "w+", shape=(len(self.tokens), rows.shape[1]))
            held[start : (start := start + len(rows))] = rows
        assert held is not None  # A task has at least one sample.
        return held

    @property
    def measure(self) -> Measure:
        return Measure.KL

    def lines(self, outputs: Outputs, expert: Outputs) -> Lines:
        """Return after which tokens the task's expert finds the same token likeliest."""
        return self._by_token(same_first(outputs, expert))

    def compare(self, outputs: Outputs, reference: Outputs) -> Comparison:
        ids = self.tokens
        divergences = divergence(outputs, reference)
        told = {
            "perplexity": perplexity(outputs, ids),
            "reference_perplexity": perplexity(reference, ids),
            **{f"kl_{each}": float(np.percentile(divergences, each)) for each in PERCENTILES},
            "kl_max": float(divergences.max()),
            "tokens": len(ids),
        }
        return Comparison(
            distance=Distance(Measure.KL, self._by_token(divergences)),
            same_first=self._by_token(same_first(outputs, reference)),
            facts=told,
        )

    def opening(self, lines: int) -> "Prediction":
        return replace(self, passages=self.passages[:lines], targets=self.targets[:lines])

    def _by_token(self, values: NDArray[Any]) -> Graded:
        """Return the lines with a number for each token."""
        return Graded(values.astype(np.float64), np.array([len(ids) for ids in self.targets]))


def perplexity(rows: Outputs, ids: Sequence[int]) -> float:
    """Return exp of the mean of -log p over the tokens."""
    return float(np.exp(-likelihood(rows, ids) / len(ids)))


def same_first(rows: Outputs, others: Outputs) -> NDArray[np.bool_]:
    """Return for each row whether its largest score is that of the same token in both, bool [rows]."""
    return np.array([one.argmax() == other.argmax() for one, other in zip(rows, others, strict=True)], bool)


def same_top(rows: Outputs, others: Outputs) -> float:
    """Return the share of rows, 0..1, whose largest scores are those of the same token."""
    return float(same_first(rows, others).mean())
