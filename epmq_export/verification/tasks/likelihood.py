"""The log-probabilities of passages, a few rows of scores at a time."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from epmq_export.errors import InputError
from epmq_export.models.samples import Passage, Sample
from epmq_export.verification.tasks.bench import Outputs

# The most rows of scores that a runtime gives at a time. With 262,144 tokens they take a gigabyte.
ROWS = 1024


def by_passage(
    run: Callable[[Sequence[Sample]], Outputs],
    passages: Sequence[Passage],
    targets: Sequence[list[int]],
    leaders: Sequence[int],
) -> Iterator[tuple[Outputs, list[int]]]:
    """Yield the log-probabilities of each passage, [tokens, vocabulary], and its tokens. A runtime is given
    as many passages as have ROWS rows together.

    `leaders` has for each passage the index of the one whose rows are read for it. Raises InputError where a
    runtime gives another number of rows.
    """
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
            raise InputError(
                f"found {len(found)} rows of scores for {count} tokens: the runtime's tokenizer makes "
                "others of the texts"
            )
        ends = np.cumsum([len(targets[i]) for i in share])
        for leader, rows in zip(share, np.split(found, ends[:-1]), strict=True):
            rows = log_softmax(rows)
            yield from ((rows, targets[i]) for i in led[leader])


def log_softmax(rows: Outputs) -> Outputs:
    """Return the logarithm of the softmax of each row, float32 [rows, vocabulary]. Raises InputError where a
    score is not finite.
    """
    if not np.isfinite(rows).all():
        raise InputError("found scores that are not finite, expected numbers for all tokens")
    return torch.log_softmax(torch.from_numpy(np.ascontiguousarray(rows)), 1).numpy()


def likelihood(rows: Outputs, ids: Sequence[int]) -> float:
    """Return log p of the tokens, one after the other."""
    return float(rows[np.arange(len(ids)), ids].astype(np.float64).sum())


def divergence(rows: Outputs, expected: Outputs) -> NDArray[np.float64]:
    """Return KL(expected || rows) of each row in nats, float64 [rows]. Both are log-probabilities, one row at
    a time in float64, since they may be mapped from a file.

    Raises InputError where they are not of one shape.
    """
    if rows.shape != expected.shape:
        raise InputError(
            f"found scores {list(rows.shape)} and a reference {list(expected.shape)}, expected one shape"
        )
    pairs = (
        (one.astype(np.float64), other.astype(np.float64)) for one, other in zip(rows, expected, strict=True)
    )
    return np.maximum([np.sum(np.exp(theirs) * (theirs - ours)) for ours, theirs in pairs], 0.0)
