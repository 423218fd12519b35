"""What a calibration is asked for, and the records of what it gives."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from epmq_export.calibration.method import Method
from epmq_export.grids.layout import Layout
from epmq_export.models.family import Family
from epmq_export.models.heads import Reading
from epmq_export.models.samples import Sample
from epmq_export.tensors.packed import PackedTensor
from epmq_export.tensors.source import TensorSource

BATCH = 16
"""How many samples a task's hidden states are carried on at a time."""


@dataclass(frozen=True)
class TaskData:
    """One task: its expert, and unlabelled samples to calibrate on."""

    name: str
    expert: TensorSource
    samples: Sequence[Sample]
    head: Reading | None = None
    """The task's head, where it has one: what `tune` and `refine` hold outputs against."""


@dataclass(frozen=True)
class LayerLoss:
    """What one tensor's solve left, as shares of its targets' energy."""

    tensor: str
    grid: str
    loss_merged: float
    """Of the merged weight, unrounded."""

    loss_before: float
    """Of W*, before rounding."""

    loss_rounded: float
    """Of the first rounding: to the nearest, or GPTQ's."""

    loss_after: float
    """Of what is shipped: the first rounding, or what descent made of it."""


@dataclass(frozen=True)
class BlockResult:
    tensors: dict[str, PackedTensor | Tensor]
    losses: list[LayerLoss]
    notes: list[str]
    """What was not stored as the recipe asked, a sentence each."""


@dataclass(frozen=True)
class Calibrator:
    """One calibration: what to solve, for which experts, on which samples.

    Memory holds one block of the merge, of the student and of one expert, one step's statistics, and
    activations up to `activation_bytes` (the rest is spilled to disk); it grows neither with depth nor with
    the number of experts.
    """

    family: Family
    base: TensorSource
    merged: TensorSource
    tasks: Sequence[TaskData]
    method: Method
    layout: Layout
    device: torch.device
    activation_bytes: int = 2 << 30
    progress: Callable[[str, int, int], None] = lambda text, done, total: None
    measure: Callable[[str, Tensor, Tensor | None, Callable[[Tensor], float]], None] | None = None
    """Shown each linear before it is rounded: its name, W*, the factor that GPTQ walks along (None for the
    nearest), and L of a weight.
    """

    told: set[str] = field(default_factory=set)
    """What the log has said of a tensor already, without its name. One set for all that `replace` makes of
    this calibration, so that a search does not say it again.
    """
