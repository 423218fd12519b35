"""Scores of language models: which answer they find likeliest, and how they go on with a text.

A task with labels is multiple choice: each sample's prompt is followed by each label's text, and the likeliest, by the sum of its tokens'
log-probabilities, is the answer. Of a task without labels every token of its texts is predicted from those before it. What is told there is
what llama.cpp's perplexity tool tells: perplexity, the divergence KL(reference || file) in nats with percentiles, and how often both find
the same token likeliest.
"""

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from epmq_export.data.sample import Passage, Sample, text_of
from epmq_export.data.task import Task
from epmq_export.errors import InputError
from epmq_export.family import LanguageFamily
from epmq_export.recipe import RecipeVerify
from epmq_export.runtimes import torch as reference
from epmq_export.sources import Sources
from epmq_export.verification.scores import Comparison, Outputs, Scores, accuracy_drop

# Rows of scores that a runtime gives at a time: with 262,144 tokens, a gigabyte.
ROWS = 1024
PERCENTILES = (50, 90, 99)


@dataclass(frozen=True)
class LanguageBench:
    tasks: Sequence[Task]
    passages: Mapping[str, list[Passage]]
    """Of a task with labels: for each sample, one a label."""

    targets: Mapping[str, list[list[int]]]
    """The tokens that each passage's rows are to predict."""

    leaders: Mapping[str, list[int]]
    """For each passage the one whose rows are read for it: of answers of one token, to one prompt, the first's row tells all."""

    experts: Mapping[str, Outputs]

    @classmethod
    def build(cls, family: LanguageFamily, sources: Sources, tasks: Sequence[Task], device: torch.device) -> "LanguageBench":
        passages = {task.name: list(_passages(task, family, sources, device)) for task in tasks}
        targets = {name: [family.targets(passage) for passage in found] for name, found in passages.items()}
        leaders = {name: _leaders(family, found, targets[name]) for name, found in passages.items()}
        bench = cls(tasks, passages, targets, leaders, {})
        experts: dict[str, Outputs] = {}
        for task in tasks:
            experts[task.name] = bench._outputs(task, partial(reference.outputs, family, sources.experts[task.expert], device=device))
        return cls(tasks, passages, targets, leaders, experts)

    def outputs(self, run: Callable[[Sequence[Sample]], Outputs]) -> dict[str, Outputs]:
        """Log-likelihoods [samples, labels]; of a task without labels log-probabilities [tokens, vocabulary], in a file that goes with them."""
        return {task.name: self._outputs(task, run) for task in self.tasks}

    def _outputs(self, task: Task, run: Callable[[Sequence[Sample]], Outputs]) -> Outputs:
        passages, targets, leaders = self.passages[task.name], self.targets[task.name], self.leaders[task.name]
        if task.truth is not None:
            found = [_likelihood(rows, ids) for rows, ids in _by_passage(run, passages, targets, leaders)]
            return np.array(found, np.float32).reshape(len(task.truth), -1)
        held: np.memmap[Any, np.dtype[np.float32]] | None = None
        total, start = sum(map(len, targets)), 0
        for rows, _ in _by_passage(run, passages, targets, leaders):
            if held is None:
                with tempfile.TemporaryFile(prefix="epmq-") as file:  # gone from the disk with the last who reads it
                    held = np.memmap(file, np.float32, "w+", shape=(total, rows.shape[1]))
            held[start : (start := start + len(rows))] = rows
        assert held is not None  # a task has a sample at least
        return held

    def scores(self, outputs: Mapping[str, Outputs]) -> Scores:
        """Accuracy; without labels the share of tokens after which the task's expert finds the same one likeliest."""
        scores = {task.name: self._score(task, outputs[task.name]) for task in self.tasks}
        return {**scores, "average": sum(scores.values()) / len(scores)}

    def _score(self, task: Task, outputs: Outputs) -> float:
        if task.truth is None:
            return same_top(outputs, self.experts[task.name])
        return float((outputs.argmax(1) == task.truth.numpy()).mean())

    def compare(self, task: Task, outputs: Outputs, reference: Outputs, verify: RecipeVerify) -> Comparison:
        if task.truth is not None:
            return accuracy_drop(task, self._score(task, outputs), self._score(task, reference), verify.tasks)
        ids = [token for tokens in self.targets[task.name] for token in tokens]
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
        sentence = f"task {task.name}: mean KL divergence from the reference is {mean:.4f} nats, tolerance {verify.kl}"
        return Comparison(None, {"language": {task.name: told}}, sentence if not mean <= verify.kl else None)


def _passages(task: Task, family: LanguageFamily, sources: Sources, device: torch.device) -> Iterator[Passage]:
    """Each sample with each label, cut to what fits; of a task without labels a text whole, or what the family is calibrated on in its place."""
    if task.truth is None:
        whole = family.passages(sources.experts[task.expert], [family.truncate(sample) for sample in task.evaluation], device)
        found = [sample if isinstance(sample, Passage) else Passage("", text_of(sample)) for sample in whole]
    else:
        found = [Passage(text_of(sample), answer) for sample in task.evaluation for (answer,) in task.prompts]
    for passage in found:
        cut = family.truncate(passage)
        assert isinstance(cut, Passage)
        yield cut


def _leaders(family: LanguageFamily, passages: Sequence[Passage], targets: Sequence[list[int]]) -> list[int]:
    leaders: list[int] = []
    read: list[int] = []
    for i, (passage, ids) in enumerate(zip(passages, targets, strict=True)):
        (batch,) = family.batches([passage], 1)
        before = batch["input_ids"][0, :-1].tolist() if len(ids) == 1 else []
        shared = bool(before) and before == read and passage.context == passages[leaders[-1]].context
        leaders.append(leaders[-1] if shared else i)
        read = before
    return leaders


def _by_passage(
    run: Callable[[Sequence[Sample]], Outputs], passages: Sequence[Passage], targets: Sequence[list[int]], leaders: Sequence[int]
) -> Iterator[tuple[Outputs, list[int]]]:
    """The log-probabilities [tokens, vocabulary] of each passage, and its tokens; a runtime is given as many passages as have ROWS rows together."""
    led: dict[int, list[int]] = {}
    for i, leader in enumerate(leaders):
        led.setdefault(leader, []).append(i)
    left = [*led]
    while left:
        count = 0
        share: list[int] = []
        while left and (not share or count + len(targets[left[0]]) <= ROWS):
            count += len(targets[left[0]])
            share.append(left.pop(0))
        found = run([passages[i] for i in share])
        if len(found) != count:
            raise InputError(f"found {len(found)} rows of scores for {count} tokens: the runtime's tokenizer makes others of the texts")
        ends = np.cumsum([len(targets[i]) for i in share])
        for leader, rows in zip(share, np.split(found, ends[:-1]), strict=True):
            rows = log_softmax(rows)
            yield from ((rows, targets[i]) for i in led[leader])


def log_softmax(rows: Outputs) -> Outputs:
    """float32 [rows, vocabulary]; InputError where a score is not finite."""
    if not np.isfinite(rows).all():
        raise InputError("found scores that are not finite, expected numbers for all tokens")
    return torch.log_softmax(torch.from_numpy(np.ascontiguousarray(rows)), 1).numpy()


def _likelihood(rows: Outputs, ids: Sequence[int]) -> float:
    """log p of the tokens, one after the other."""
    return float(rows[np.arange(len(ids)), ids].astype(np.float64).sum())


def perplexity(rows: Outputs, ids: Sequence[int]) -> float:
    """exp of the mean of -log p, over the tokens that came."""
    return float(np.exp(-_likelihood(rows, ids) / len(ids)))


def same_top(rows: Outputs, others: Outputs) -> float:
    """Share of rows, 0..1."""
    return float(np.mean([one.argmax() == other.argmax() for one, other in zip(rows, others, strict=True)]))


def divergence(rows: Outputs, expected: Outputs) -> Outputs:
    """KL(expected || rows) in nats, float64 [rows]."""
    found = [
        np.sum(np.exp(theirs) * (theirs - ours))
        for ours, theirs in ((one.astype(np.float64), other.astype(np.float64)) for one, other in _pairs(rows, expected))
    ]
    return np.maximum(np.array(found), 0.0)


def _pairs(rows: Outputs, others: Outputs) -> Iterator[tuple[Outputs, Outputs]]:
    if rows.shape != others.shape:
        raise InputError(f"found scores {list(rows.shape)} and a reference {list(others.shape)}, expected one shape")
    yield from zip(rows, others, strict=True)
