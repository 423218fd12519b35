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


WHOLE = Refinement(steps=300)
"""What `refine: true` stands for."""

AFFINE = Refinement(steps=56, weights=False, rate=3e-4)
"""What `refine: affine` stands for."""
