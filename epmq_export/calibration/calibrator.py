"""The request for a calibration, and the records of its results."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from epmq_export.calibration.method import Method
from epmq_export.grids.layout import Layout
from epmq_export.models.family import Family
from epmq_export.models.heads import Reading
from epmq_export.models.samples import Sample
from epmq_export.ranks import ALONE, Ranks
from epmq_export.tensors.packed import PackedTensor
from epmq_export.tensors.source import TensorSource

BATCH = 16
"""The number of a task's samples whose hidden states are computed at a time."""


@dataclass(frozen=True)
class TaskData:
    """One task: its expert, and unlabelled samples to calibrate on."""

    name: str
    expert: TensorSource
    samples: Sequence[Sample]
    head: Reading | None = None
    """The task's head, where it has one. `tune` and `refine` compare outputs as it reads them."""


@dataclass(frozen=True)
class LayerLoss:
    """The loss of one tensor's solve at several points, as shares of its targets' energy."""

    tensor: str
    grid: str
    loss_merged: float
    """The loss of the merged weight, unrounded."""

    loss_before: float
    """The loss of W*, before rounding."""

    loss_rounded: float
    """The loss after the first rounding: to the nearest, or GPTQ's."""

    loss_after: float
    """The loss of the weight that is shipped: the first rounding, or the result of the descent from it."""


@dataclass(frozen=True)
class BlockResult:
    """The calibrated tensors of a block."""

    tensors: dict[str, PackedTensor | Tensor]
    losses: list[LayerLoss]
    notes: list[str]
    """What was not stored as the recipe asked, a sentence each."""

    unreached: Mapping[str, int] = field(default_factory=dict)
    """The linears of mixtures that no row of some tasks reaches, with the number of these tasks. Where none
    does, the anchor stands.
    """


@dataclass(frozen=True)
class Calibrator:
    """One calibration: the model, the experts and the samples, and the settings of the solve.

    Memory holds one block of the merge, of the student and of one expert, the statistics of one step, and
    activations up to `activation_bytes` (the rest is spilled to disk). It grows neither with depth nor with
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
    """A function that is shown each linear before it is rounded: its name, W*, the factor that GPTQ walks
    along (None for rounding to the nearest), and a function that gives L of a weight.
    """

    ranks: Ranks = ALONE
    """The processes that share the work. All but rank 0 run it by `shared.take_part`."""

    told: set[str] = field(default_factory=set)
    """The notes that are in the log already, without the names of tensors. All calibrations that `replace`
    makes of this one share the set, so that a search does not log them again.
    """
