"""The reference: a family's own modules in PyTorch, float32, with the weights of any source."""

from collections.abc import Iterator, Sequence
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from epmq_export.models.activations import Activations, room_on
from epmq_export.models.blocks import load_block, run_block
from epmq_export.models.family import Batch, Family, rows
from epmq_export.models.greedy import answers
from epmq_export.models.heap import give_back
from epmq_export.models.precision import whole_float32
from epmq_export.models.samples import Question, Sample, length
from epmq_export.tensors.source import TensorSource

BATCH = 32
# The most tokens of a batch of several samples, padding included: what a forward pass holds grows with them.
TOKENS = 2048
# The longest sample of a batch has at most TIMES the letters of the shortest and LETTERS more, since all are
# padded to its length.
TIMES, LETTERS = 2, 32
# The bytes of hidden states that are held in memory. The rest is spilled.
HELD = 2 << 30


def default_device() -> torch.device:
    """Return the GPU where there is one, else the CPU."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


@torch.no_grad()
@whole_float32()
def outputs(
    family: Family, source: TensorSource, samples: Sequence[Sample], device: torch.device
) -> NDArray[np.float32]:
    """Return the family's outputs, float32 [len(samples), width], computed with one block's weights in memory
    at a time. Passages have a row for each scored token.

    The output of questions, which all have the same limit, is the tokens of their answers.
    """
    if samples and all(isinstance(sample, Question) for sample in samples):
        return _answers(family, source, cast(Sequence[Question], samples), device)
    # Samples of similar length stand together, so that there is little padding.
    order = sorted(range(len(samples)), key=lambda i: length(samples[i]))
    first, *others = family.blocks
    later: list[Batch] = []
    results: list[torch.Tensor] = []
    with Activations(HELD, room_on(device)) as kept:
        module = load_block(first, source, device)
        for b, batch in enumerate(batches(family, [samples[i] for i in order])):
            kept.put(("hidden", b), run_block(first, module, None, batch, device))
            later.append(family.later(batch))
        for block in others:
            give_back()
            module = load_block(block, source, device)
            for b, batch in enumerate(later):
                kept.put(("hidden", b), run_block(block, module, kept.get(("hidden", b)), batch, device))
        for b, batch in enumerate(later):
            hidden = kept.get(("hidden", b)).to(device)
            results.append(
                family.output(hidden, {key: value.to(device) for key, value in batch.items()}).cpu()
            )
    counts = [rows(family, samples[i]) for i in order]
    parts = dict(zip(order, torch.split(torch.cat(results).float(), counts), strict=True))
    return torch.cat([parts[i] for i in range(len(samples))]).numpy()


def batches(family: Family, samples: Sequence[Sample]) -> Iterator[Batch]:
    """Give the samples in batches of at most BATCH of similar length, of which each has at most TOKENS tokens
    or one sample.
    """
    for alike in _alike(samples):
        for batch in family.batches(alike, BATCH):
            widths = [value.shape[1] for value in batch.values()]
            count = max(1, TOKENS // (max(widths) if family.images is None else family.images.tokens))
            for start in range(0, len(next(iter(batch.values()))), count):
                yield {name: value[start : start + count] for name, value in batch.items()}


def _alike(samples: Sequence[Sample]) -> Iterator[list[Sample]]:
    """Yield samples, which come with the shortest first, in parts of similar length."""
    part: list[Sample] = []
    for sample in samples:
        if part and length(sample) > TIMES * length(part[0]) + LETTERS:
            yield part
            part = []
        part.append(sample)
    if part:
        yield part


def _answers(
    family: Family, source: TensorSource, questions: Sequence[Question], device: torch.device
) -> NDArray[np.float32]:
    texts = [question.text for question in questions]
    found = answers(family, source, texts, questions[0].limit, device)
    return np.stack([question.row(ids) for question, ids in zip(questions, found, strict=True)])
