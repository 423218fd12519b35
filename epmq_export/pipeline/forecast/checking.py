"""The time of the graph check, which runs hard samples in full precision whatever data the tasks have: of a
large model that is most of `verify`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from epmq_export.models.family import Family
from epmq_export.models.reference import batches
from epmq_export.models.samples import Passage, Sample, length
from epmq_export.pipeline.forecast.costs import FLOAT, SLOWEST, Shape, Speed
from epmq_export.verification.checks import predictable
from epmq_export.verification.probes import probes
from epmq_export.verification.runtimes.one_by_one import ONE_BY_ONE

# The bytes of weights that a runtime reads a second for one token, the least and the most.
READ = 2e9, 1e10


@dataclass(frozen=True)
class Checked:
    """What the reference and one runtime are given."""

    tokens: int
    """Those of all samples together."""

    padded: int
    """The same in the batches of the reference."""

    apart: int
    """The tokens that a language model reads one by one."""

    longest: int
    """The tokens of the longest sample."""


def hard_samples(family: Family) -> list[Sample]:
    """Return the samples that a family is checked with."""
    return [
        sample for sample in probes(family) if not isinstance(sample, Passage) or predictable(family, sample)
    ]


def checked_of(family: Family) -> Checked:
    """Return what the check of a family takes."""
    samples = sorted((family.truncate(sample) for sample in hard_samples(family)), key=length)
    if family.images is not None:
        tokens = len(samples) * family.images.tokens
        return Checked(tokens, tokens, 0, family.images.tokens)
    masks = [batch["attention_mask"] for batch in batches(family, samples)]
    return Checked(
        tokens=sum(int(mask.sum()) for mask in masks),
        padded=sum(mask.numel() for mask in masks),
        apart=0 if family.language is None else ONE_BY_ONE * len(samples),
        longest=max(mask.shape[1] for mask in masks),
    )


def checking_seconds(
    checked: Checked, blocks: Sequence[Shape], speed: Speed, written: tuple[float, float]
) -> tuple[float, float]:
    """Return the seconds of the check in one runtime, the least and the most: of writing the model in float32
    with `written` bytes a second, of running it and the reference, and of reading it for each token that is
    read apart.
    """
    size = sum(block.numbers for block in blocks) * FLOAT
    run = checked.tokens + checked.padded
    both = sum(block.forward(run, checked.longest) for block in blocks) / speed.single
    return (
        size / written[1] + both + checked.apart * size / READ[1],
        size / written[0] + SLOWEST * both + checked.apart * size / READ[0],
    )
