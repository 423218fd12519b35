"""What the stage `refine` is asked for. It stands apart from it, so that a recipe is read without torch."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import ceil

# One sample in HELD_OUT of each task is never trained on. These samples tell which step was the best.
HELD_OUT = 8
# How often biases and norms see each sample, at least.
PASSES = 2
# The samples of a step.
BATCH = 32
TRIAL = 28
"""The steps for which a learning rate is tried. With 16, of which 5 lead up to it, DINOv2 was given too low a
one.
"""
LESSONS = 512
"""The samples of each task that a model of texts or images is refined on, where so many are there: layers are
calibrated as well on fewer, but what is trained learns them by heart.
"""
WHOLE_LESSONS = 2048
"""The same where the linears are trained, too, which learn more by heart. Samples are held out of the first
`LESSONS` alone, so that more of them make no check longer.
"""


@dataclass(frozen=True)
class Refinement:
    """The settings of the stage."""

    steps: int
    weights: bool = True
    """Whether the linears are trained on their grids, or biases and norms alone."""

    rate: float = 1e-4
    """The learning rate of Adam for the linears' weights. Biases and norms get three times that rate, steps
    and offsets a tenth of it.
    """

    faster: Sequence[float] = ()
    """Higher rates that are tried, each where the one before it was better than those below. How far biases
    and norms have to go differs tenfold from model to model.
    """

    checks: int = 10
    """How often the held-out samples are asked whether the state is the best so far. The last state always
    is.
    """

    @property
    def most(self) -> int:
        """Return the steps with those of all trials. As few as a trial has are trials alone."""
        if not self.faster:
            return self.steps
        trials = (1 + len(self.faster)) * min(TRIAL, self.steps)
        return trials if self.steps <= TRIAL else trials + self.steps

    def over(self, samples: int) -> "Refinement":
        """Return these settings for so many samples of all tasks together: biases and norms see each that is
        not held out at least `PASSES` times.
        """
        if self.weights:
            return self
        steps = ceil(PASSES * samples * (HELD_OUT - 1) / HELD_OUT / BATCH)
        return replace(self, steps=max(self.steps, steps))


WHOLE = Refinement(steps=300)
"""What `refine: true` stands for."""

AFFINE = Refinement(steps=28, weights=False, rate=3e-4, faster=(1e-3, 3e-3), checks=1)
"""What `refine: affine` stands for, with the fewest steps. So few parameters do not overfit in so few steps:
the last state is the best, and earlier ones look better only by luck, of as few samples as are held out.
"""
