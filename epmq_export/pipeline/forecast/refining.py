"""The cost of `refine` in memory and time, from shapes and the speed of this machine.

A step runs a batch forward and backward, which is three forward passes, rounds every weight of the linears,
and moves it by Adam. Where biases and norms alone are trained, it is two passes and nothing for the weights;
of a model that is not held, it is three passes, for two of which each weight is decoded. At each check the
held-out samples are run forward, and once all samples by their experts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from epmq_export.calibration.refinement import BATCH, HELD_OUT, LESSONS, Refinement
from epmq_export.calibration.student import HELD
from epmq_export.pipeline.forecast.costs import FLOAT, PRODUCTS, SPREAD, Samples, Shape, Speed

# The operations that rounding, its gradient and Adam take for a weight, counted by the time that they take
# beside products: they read and write memory.
OPERATIONS_A_WEIGHT = 300
# The operations that reading a weight and decoding it takes, counted in the same way.
DECODING = 500
# The bytes of a weight of the linears: its latent value, its gradient, two moments, its rounded value, and
# what the gradient of the rounding needs.
BYTES_A_WEIGHT = 6 * FLOAT + 1
# The hidden states of a row that a block keeps for its gradient, beside the linears' inputs and outputs.
STATES = 4


@dataclass(frozen=True)
class RefineForecast:
    """What refining the whole model behind the calibration takes."""

    steps: int
    """The number of its steps."""

    seconds: tuple[float, float]
    """The least and the most."""

    memory: int
    """The bytes that it holds, besides Python and its libraries."""


def refining_of(
    blocks: Sequence[Shape], samples: Samples, settings: Refinement, times: int, speed: Speed
) -> RefineForecast:
    """Return what refining takes, done `times` times: `PRODUCTS` times its operations over the speed."""
    weights = sum(step.width * sum(step.outputs) for block in blocks for step in block.steps)
    rows = BATCH * samples.tokens

    def forward(rows: float) -> float:
        return sum(block.forward(rows, samples.tokens) for block in blocks)

    numbers = sum(block.numbers for block in blocks)
    held = settings.weights or numbers * FLOAT <= HELD
    a_step = 2 * forward(rows)
    if settings.weights:
        a_step += forward(rows) + OPERATIONS_A_WEIGHT * weights
    elif not held:
        a_step += forward(rows) + 2 * DECODING * numbers
    judged = settings.checks + (1 + len(settings.faster)) * bool(settings.faster)
    operations = settings.most * a_step
    held_out = min(samples.samples, samples.tasks * LESSONS) / HELD_OUT
    operations += forward(samples.rows) + judged * forward(held_out * samples.tokens)
    kept = [_kept(block) for block in blocks]
    if held:
        a_weight = BYTES_A_WEIGHT if settings.weights else FLOAT
        memory = (numbers - weights) * FLOAT + weights * a_weight + rows * sum(kept) * FLOAT
    else:
        # Of the other blocks there are the hidden states between them.
        between = sum(block.steps[0].width for block in blocks if block.steps)
        memory = max(block.numbers for block in blocks) * FLOAT + rows * (max(kept) + between) * FLOAT
    expected = PRODUCTS * times * operations / speed.single
    return RefineForecast(settings.steps, (expected / SPREAD, expected * SPREAD), int(memory))


def _kept(block: Shape) -> float:
    """Return the numbers that a block keeps of a row for its gradients."""
    if not block.steps:
        return 0
    within = sum(step.reached * (step.width + sum(step.outputs)) for step in block.steps)
    return STATES * max(step.width for step in block.steps) + within
