"""The memory of `verify` in its own process, from shapes and from the sizes of files.

The reference runs the model block by block on a batch of samples: hard texts that every family is checked
with, and the lines that judge the tasks. A runtime in a process of its own does not count; one that runs in
this process holds the whole model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import prod

from epmq_export.models.family import Family
from epmq_export.models.reference import BATCH, HELD
from epmq_export.models.samples import Passage, Sample, length
from epmq_export.pipeline.forecast.costs import FLOAT, STATES, Shape, hidden_of
from epmq_export.verification.checks import predictable
from epmq_export.verification.probes import probes
from epmq_export.verification.tasks.likelihood import ROWS

# The copies of a language model's scores: those of the batches, of all of them together, the runtime's, and
# the reference's.
SCORES = 4


@dataclass(frozen=True)
class VerifyForecast:
    """The bytes that `verify` holds besides Python and its libraries."""

    reference: int
    """The model in PyTorch: a block, the forward pass of a batch, hidden states, and scores."""

    runtime: int
    """The model in a runtime that runs in this process, 0 where none does."""

    @property
    def peak(self) -> int:
        """Return all that is in memory together."""
        return self.reference + self.runtime


def verifying_of(
    family: Family,
    blocks: Sequence[Shape],
    shapes: Mapping[str, tuple[int, ...]],
    lines: Sequence[Sample],
    tokens: float,
    runtime: float,
) -> VerifyForecast:
    """Return what `verify` holds. `lines` are those that judge the tasks, of `tokens` tokens on average;
    `shapes` are those of all tensors, and `runtime` the bytes that a runtime holds.
    """
    hidden = hidden_of(blocks)
    hard = [
        sample for sample in probes(family) if not isinstance(sample, Passage) or predictable(family, sample)
    ]
    weights = max(block.numbers + 2 * block.largest for block in blocks)
    batch = max(_longest(family, samples) for samples in (hard, lines) if samples)
    forward = batch * (STATES * hidden + 2 * max(block.widest for block in blocks))
    scores = 0
    if family.language is not None:
        scores = SCORES * ROWS * max(shapes[name][0] for name in family.embeddings)
    kept = min(max(len(lines) * tokens, batch) * hidden * FLOAT, HELD)
    return VerifyForecast(int((weights + forward + scores) * FLOAT + kept), int(runtime))


def _longest(family: Family, samples: Sequence[Sample]) -> int:
    """Return the most tokens, padding included, that a batch of the samples has."""
    if family.images is not None:
        return min(BATCH, len(samples)) * family.images.tokens
    longest = sorted((family.truncate(sample) for sample in samples), key=length)[-BATCH:]
    return max(prod(batch["input_ids"].shape) for batch in family.batches(longest, BATCH))
