"""Texts without labels, every token of which is predicted from those before it.

The facts are those of llama.cpp's perplexity tool: the perplexity, the divergence KL(reference || file) in
nats with percentiles, and how often both find the same token likeliest.
"""

import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from epmq_export.data.task import Task
from epmq_export.errors import InputError
from epmq_export.models.family import Family, language_of
from epmq_export.models.samples import Passage, Sample
from epmq_export.recipe.recipe import RecipeVerify
from epmq_export.verification.tasks.bench import Comparison, Outputs
from epmq_export.verification.tasks.likelihood import by_passage, likelihood

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

    def score(self, outputs: Outputs, expert: Outputs) -> float:
        """Return the share of tokens after which the task's expert finds the same token likeliest."""
        return same_top(outputs, expert)

    def compare(self, outputs: Outputs, reference: Outputs, verify: RecipeVerify) -> Comparison:
        ids = self.tokens
        divergences = divergence(outputs, reference)
        mean = float(divergences.mean())
        told = {
            "perplexity": perplexity(outputs, ids),
            "reference_perplexity": perplexity(reference, ids),
            "kl_mean": mean,
            **{f"kl_{each}": float(np.percentile(divergences, each)) for each in PERCENTILES},
            "kl_max": float(divergences.max()),
            "same_top": same_top(outputs, reference),
            "tokens": len(ids),
        }
        sentence = (
            f"task {self.task.name}: mean KL divergence from the reference is {mean:.4f} nats, tolerance "
            f"{verify.kl}"
        )
        return Comparison(
            None, {"language": {self.task.name: told}}, sentence if not mean <= verify.kl else None
        )


def perplexity(rows: Outputs, ids: Sequence[int]) -> float:
    """Return exp of the mean of -log p over the tokens."""
    return float(np.exp(-likelihood(rows, ids) / len(ids)))


def same_top(rows: Outputs, others: Outputs) -> float:
    """Return the share of rows, 0..1, whose largest scores are those of the same token."""
    return float(np.mean([one.argmax() == other.argmax() for one, other in zip(rows, others, strict=True)]))


def divergence(rows: Outputs, expected: Outputs) -> Outputs:
    """Return KL(expected || rows) of each row in nats, float64 [rows]."""
    found = [
        np.sum(np.exp(theirs) * (theirs - ours))
        for ours, theirs in (
            (one.astype(np.float64), other.astype(np.float64)) for one, other in _pairs(rows, expected)
        )
    ]
    return np.maximum(np.array(found), 0.0)


def _pairs(rows: Outputs, others: Outputs) -> Iterator[tuple[Outputs, Outputs]]:
    if rows.shape != others.shape:
        raise InputError(
            f"found scores {list(rows.shape)} and a reference {list(others.shape)}, expected one shape"
        )
    yield from zip(rows, others, strict=True)
