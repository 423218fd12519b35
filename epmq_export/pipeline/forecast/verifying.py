"""The memory of `verify` in its own process, from shapes and from the sizes of files.

The reference runs the model block by block on a batch of samples: hard texts that every family is checked
with, and the lines that judge the tasks. A runtime in a process of its own does not count; one that runs in
this process holds the whole model.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from epmq_export.models.family import Family
from epmq_export.models.reference import BATCH, HELD, TOKENS, batches
from epmq_export.models.samples import Sample, length
from epmq_export.pipeline.forecast.checking import hard_samples
from epmq_export.pipeline.forecast.costs import FLOAT, KEPT, STATES, Shape, hidden_of
from epmq_export.verification.tasks.likelihood import ROWS

# The copies of a language model's scores: those of the batches, of all of them together, the runtime's, and
# the reference's.
SCORES = 4
# The copies of the keys and values of a text: those that a runtime is given, and those that it gives back.
CACHES = 2


@dataclass(frozen=True)
class VerifyForecast:
    """The bytes that `verify` holds besides Python and its libraries."""

    outputs: int
    """Hidden states of the samples, and the scores of a language model."""

    reference: int
    """The model in PyTorch: a block, and the forward pass of a batch."""

    runtime: int
    """The model in a runtime that runs in this process, and its cache of keys and values; 0 where none
    does.
    """

    @property
    def peak(self) -> int:
        """Return all that is in memory together, with what the C library keeps of what was freed: the
        reference and the runtimes run one after the other.
        """
        return int((self.outputs + max(self.reference, self.runtime)) * (1 + KEPT))


def verifying_of(
    family: Family,
    blocks: Sequence[Shape],
    shapes: Mapping[str, tuple[int, ...]],
    lines: Sequence[Sample],
    tokens: float,
    runtime: float,
) -> VerifyForecast:
    """Return what `verify` holds. `lines` are those that judge the tasks, of `tokens` tokens on average;
    `shapes` are those of all tensors, and `runtime` the bytes that a runtime in this process holds of a
    model.
    """
    hidden = hidden_of(blocks)
    weights = max(block.numbers + 2 * block.largest for block in blocks)
    row = STATES * hidden + 2 * max(block.widest for block in blocks)
    known = _longest(family, hard_samples(family))
    run = [*known, *_longest(family, lines)]
    # Beside the hidden states there is the mask of an attention, as truth values and as numbers.
    forward = max(count * length * (row * FLOAT + length * (FLOAT + 1)) for count, length in run)
    states = max(len(lines) * tokens, sum(count * length for count, length in known))
    outputs = min(states * hidden * FLOAT, HELD)
    if family.language is not None:
        outputs += SCORES * ROWS * max(shapes[name][0] for name in family.embeddings) * FLOAT
        if runtime:
            runtime += CACHES * max(length for _, length in run) * _kept_of_a_token(blocks) * FLOAT
    return VerifyForecast(int(outputs), int(weights * FLOAT + forward), int(runtime))


def _kept_of_a_token(blocks: Sequence[Shape]) -> int:
    """Return how many numbers the keys and values of a token are. Steps of three linears are queries, keys
    and values.
    """
    return sum(sum(step.outputs[1:]) for block in blocks for step in block.steps if len(step.outputs) == 3)


def _longest(family: Family, samples: Sequence[Sample]) -> list[tuple[int, int]]:
    """Return the samples and the tokens of the batches in which the reference runs the longest samples, at
    least BATCH of them if there are so many.
    """
    ordered = sorted((family.truncate(sample) for sample in samples), key=length)
    last = ordered[max(0, (len(ordered) - 1) // BATCH - 1) * BATCH :]
    if family.images is not None:
        tokens = family.images.tokens
        count = min(BATCH, max(1, TOKENS // tokens))
        return [(len(last[start : start + count]), tokens) for start in range(0, len(last), count)]
    shapes = [tuple(batch["input_ids"].shape) for batch in batches(family, last)]
    return [(count, width) for count, width in shapes]
