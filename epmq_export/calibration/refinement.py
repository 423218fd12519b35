"""What the stage `refine` is asked for. It stands apart from it, so that a recipe is read without torch."""

from dataclasses import dataclass

# One sample in HELD_OUT of each task is never trained on. These samples tell which step was the best.
HELD_OUT = 8


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

    checks: int = 10
    """How often the held-out samples are asked whether the state is the best so far. The last state always
    is.
    """


WHOLE = Refinement(steps=300)
"""What `refine: true` stands for."""

AFFINE = Refinement(steps=28, weights=False, rate=3e-4, checks=1)
"""What `refine: affine` stands for. So few parameters do not overfit in so few steps: the last state is the
best, and earlier ones look better only by luck, of as few samples as are held out.
"""
