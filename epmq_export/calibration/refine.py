"""The stage `refine`: the whole calibrated model is trained to give each expert's outputs on the calibration
samples, and stays on its grids.

It is distillation without labels. The error that layer by layer least squares leaves is mostly a bias: each
layer does a little less than its experts do, and these shares multiply. Here the loss is that of the whole
model. Codes are trained straight through their rounding (Bengio et al., arXiv 1308.3432), and steps as in LSQ
(arXiv 1902.08153).
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.nn.utils import parametrize

from epmq_export.calibration.calibrator import TaskData
from epmq_export.calibration.divergence import divergence
from epmq_export.calibration.refinement import BATCH, HELD_OUT, Refinement
from epmq_export.errors import CalibrationError
from epmq_export.grids import Grid, Stored
from epmq_export.grids.grid import inverse
from epmq_export.models import reference
from epmq_export.models.blocks import load_block, paths
from epmq_export.models.family import Family
from epmq_export.models.heads import Head, Reading
from epmq_export.models.precision import AttentionInFloat32, fast_bfloat16
from epmq_export.models.rms_norm import RmsNorm
from epmq_export.models.samples import Sample, length
from epmq_export.tensors.packed import PackedTensor, Values

Tensors = dict[str, PackedTensor | Tensor]
POOL = 8
WARM_UP = 20


@dataclass(frozen=True)
class Refined:
    """The best state that was found."""

    tensors: Tensors
    before: float
    """The mean divergence from the experts' outputs on the held-out samples, before the stage."""

    after: float
    """The same for the state that is kept. It is never above `before`."""

    step: int
    """The step of the state that is kept. 0 is the start."""

    @property
    def gain(self) -> dict[str, float]:
        """Return the numbers that packed.json has of it."""
        return {"before": self.before, "after": self.after, "step": self.step}


class _OnGrid(nn.Module):
    """A linear's weight that is rounded whenever it is used: its latent values [out, in] become codes under
    steps and offsets that the grid can store.

    K-quants keep their stored numbers and train codes alone, because the steps of one group depend on each
    other.
    """

    def __init__(self, packed: PackedTensor) -> None:
        super().__init__()
        self.grid = packed.grid
        self._kept = packed.stored if packed.grid.group > packed.grid.subgroup else None
        step, offset = packed.grid.steps(packed.stored)
        self.step = nn.Parameter(step.clone(), requires_grad=self._kept is None)
        self.offset = (
            None if offset is None else nn.Parameter(offset.clone(), requires_grad=self._kept is None)
        )

    @property
    def stored(self) -> Stored:
        with torch.no_grad():
            return self._kept or self.grid.round(self.step, self.offset)

    def forward(self, latent: Tensor) -> Tensor:
        given = (latent, self.step, self.offset, self.grid, self.stored)
        result: Tensor = _Round.apply(*given)  # type: ignore[no-untyped-call]
        return result

    def packed(self, latent: Tensor) -> PackedTensor:
        with torch.no_grad():
            stored = {part: value.clone() for part, value in self.stored.items()}
            codes, *_ = _codes(self.grid, latent, stored)
        return PackedTensor(self.grid, codes.reshape(latent.shape), stored)


class _Round(torch.autograd.Function):
    """The rounding of latent values to values on the grid, with a straight-through gradient: inside the range
    a change of a latent value changes its weight by as much.
    """

    @staticmethod
    def forward(
        context: Any,  # noqa: ANN401
        latent: Tensor,
        step: Tensor,
        offset: Tensor | None,
        grid: Grid,
        stored: Stored,
    ) -> Tensor:
        step, offset = _spread(*grid.steps(stored))
        rows = latent.reshape(len(latent), -1, grid.subgroup)
        ratio = rows * inverse(step) if offset is None else (rows - offset).mul_(inverse(step))
        # Codes are not needed for values, and what can be is computed in place: the weights of a whole model
        # pass here at every step.
        level = grid.nearest_level_(ratio.clone())
        values = step * level if offset is None else (step * level).add_(offset)
        # Values up to half a step past the last level are still rounded to it as to any other level.
        inside = (ratio > grid.levels[0] - 0.5).logical_and_(ratio < grid.levels[-1] + 0.5)
        context.save_for_backward(level.sub_(ratio.mul_(inside)), inside)
        return values.reshape(latent.shape)

    @staticmethod
    def backward(
        context: Any,  # noqa: ANN401 - torch's own
        *gradients: Tensor,
    ) -> tuple[Tensor, Tensor | None, Tensor | None, None, None]:
        along, inside = context.saved_tensors
        gradient = gradients[0].reshape(inside.shape)
        step = (gradient * along).sum(2) if context.needs_input_grad[1] else None
        offset = (gradient * ~inside).sum(2) if context.needs_input_grad[2] else None
        return (gradient * inside).reshape(gradients[0].shape), step, offset, None, None


def _codes(grid: Grid, latent: Tensor, stored: Stored) -> tuple[Tensor, Tensor, Tensor | None]:
    """Return the codes [out, subgroups, subgroup], and the step and the offset in a shape that broadcasts to
    them.
    """
    step, offset = _spread(*grid.steps(stored))
    return grid.encode(latent.reshape(len(latent), -1, grid.subgroup), step, offset), step, offset


def _spread(step: Tensor, offset: Tensor | None) -> tuple[Tensor, Tensor | None]:
    """Return steps and offsets in a shape that broadcasts to [out, subgroups, subgroup]."""
    return step[:, :, None], None if offset is None else offset[:, :, None]


def require_samples(tasks: Sequence[TaskData]) -> None:
    """Raise CalibrationError where a task has too few samples to hold one out."""
    for task in tasks:
        if len(task.samples) < HELD_OUT:
            raise CalibrationError(
                f"task {task.name}: refine holds out one sample in {HELD_OUT} and found "
                f"{len(task.samples)}; raise calibration.samples"
            )


def refine(
    family: Family,
    tasks: Sequence[TaskData],
    tensors: Mapping[str, PackedTensor | Tensor],
    settings: Refinement,
    device: torch.device,
    progress: Callable[[str, int, int], None] = lambda text, done, total: None,
) -> Refined:
    """Train the linears, biases and norms of a calibrated model, or biases and norms alone. Return the best
    of its states on held-out samples, which may be the start.

    The whole model is in memory: 4 bytes a weight, and 16 with its gradients and Adam's two moments where the
    linears are trained. Raises CalibrationError where the loss is not finite, or a task has too few samples.
    """
    require_samples(tasks)
    student = _Student(family, tensors, settings.weights, device)
    lessons = _lessons(family, tasks, device)
    held = sorted((lesson for lesson in lessons if lesson.held_out), key=lambda lesson: length(lesson.sample))

    def loss(chosen: Sequence[_Lesson]) -> Tensor:
        (batch,) = family.batches([lesson.sample for lesson in chosen], len(chosen))
        outputs = student.output(batch)
        return torch.cat(
            [
                lesson.weight * divergence(output[None], lesson.target[None], lesson.head)
                for output, lesson in zip(outputs, chosen, strict=True)
            ]
        ).mean()

    @torch.no_grad()
    def held_out() -> float:
        parts = [held[start : start + BATCH] for start in range(0, len(held), BATCH)]
        return sum(float(loss(part)) * len(part) for part in parts) / len(held)

    # Fused, each parameter is read and written once a step.
    optimiser = torch.optim.Adam(student.groups(settings.rate), betas=(0.9, 0.98), fused=True)
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimiser,
        lambda step: min((step + 1) / WARM_UP, 0.5 + 0.5 * math.cos(math.pi * step / settings.steps)),
    )
    before = held_out()
    best = Refined(tensors=dict(tensors), before=before, after=before, step=0)
    for step, chosen in enumerate(
        _batches([lesson for lesson in lessons if not lesson.held_out], settings.steps), 1
    ):
        progress("refine", step - 1, settings.steps)
        value = loss(chosen)
        if not bool(torch.isfinite(value)):
            raise CalibrationError(
                f"refine: the loss is not finite at step {step}; look for NaN or Inf in the checkpoints"
            )
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step == settings.steps or step % max(settings.steps // settings.checks, 1) == 0:
            after = held_out()
            if after < best.after:
                trained = {**tensors, **{name: value.to("cpu") for name, value in student.tensors().items()}}
                best = Refined(tensors=trained, before=before, after=after, step=step)
    progress("refine", settings.steps, settings.steps)
    return best


class _Student:
    """The whole calibrated model, with the parameters that are trained: biases and norms, and the linears on
    their grids where `weights` says so.
    """

    def __init__(
        self,
        family: Family,
        tensors: Mapping[str, PackedTensor | Tensor],
        weights: bool,
        device: torch.device,
    ) -> None:
        self._family, self._device = family, device
        source = Values(tensors)
        self._modules = {
            block.name: load_block(block, source, device).requires_grad_(False) for block in family.blocks
        }
        self._linears: list[tuple[str, nn.Module]] = []
        self._affine: list[tuple[str, nn.Module, nn.Parameter]] = []
        for block in family.blocks:
            for path in paths(block):
                module, name = self._modules[block.name].get_submodule(path), f"{block.prefix}{path}"
                value = tensors[f"{name}.weight"]
                if weights and isinstance(value, PackedTensor):
                    parametrize.register_parametrization(
                        module, "weight", _OnGrid(value.to(device)), unsafe=True
                    )
                    self._linears.append((f"{name}.weight", module))
                self._affine += [
                    (f"{name}.{key}", module, parameter)
                    for key, parameter in module.named_parameters(recurse=False)
                    if parameter.ndim == 1
                ]
        for parameter in self.parameters():
            parameter.requires_grad_(True)

    def output(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Return the outputs of a batch, float32 [batch, width]."""
        hidden: Tensor | None = None
        batch = {key: value.to(self._device, non_blocking=True) for key, value in batch.items()}
        bfloat16 = torch.autocast(self._device.type, torch.bfloat16, enabled=fast_bfloat16(self._device))
        with bfloat16, _attention(self._device):
            for block in self._family.blocks:
                hidden = block.run(self._modules[block.name], hidden, batch)
        assert hidden is not None
        return self._family.output(hidden.float(), batch)

    def parameters(self) -> list[nn.Parameter]:
        """Return all parameters that are trained."""
        return [parameter for group in self.groups(0.0) for parameter in group["params"]]

    def groups(self, rate: float) -> list[dict[str, Any]]:
        """Return the parameters in the three groups of the optimiser: latent weights, steps and offsets,
        biases and norms.
        """
        grids = [_parametrization(module) for _, module in self._linears]
        return [
            {"params": [latent for latent, _ in grids], "lr": rate},
            {
                "params": [
                    parameter
                    for _, grid in grids
                    for parameter in grid.parameters()
                    if parameter.requires_grad
                ],
                "lr": rate / 10,
            },
            {"params": [parameter for *_, parameter in self._affine], "lr": rate * 3},
        ]

    def tensors(self) -> Tensors:
        """Return the trained tensors as they are now, on their grids; norms as a file holds them that adds to
        their weights.
        """
        found: Tensors = {}
        for name, module, parameter in self._affine:
            value = parameter.detach().clone()
            found[name] = module.whole(value) if isinstance(module, RmsNorm) else value
        for name, module in self._linears:
            latent, grid = _parametrization(module)
            found[name] = grid.packed(latent)
        return found


def _parametrization(module: nn.Module) -> tuple[nn.Parameter, _OnGrid]:
    found: Any = module.parametrizations
    return found.weight.original, found.weight[0]


@dataclass(frozen=True)
class _Lesson:
    """A sample with the output that the student is to give."""

    sample: Sample
    target: Tensor
    """The expert's output, float32 [width]."""

    head: Reading | None
    held_out: bool
    weight: float
    """What its divergence counts. All tasks count alike, however many samples they have, and the mean over
    all samples is 1.
    """


def _lessons(family: Family, tasks: Sequence[TaskData], device: torch.device) -> list[_Lesson]:
    found = []
    total = sum(len(task.samples) for task in tasks)
    for task in tasks:
        weight = total / len(tasks) / len(task.samples)
        targets = torch.from_numpy(reference.outputs(family, task.expert, task.samples, device)).to(device)
        head = task.head.to(device) if isinstance(task.head, Head) else task.head
        found += [
            _Lesson(sample, target, head, held_out=i % HELD_OUT == HELD_OUT - 1, weight=weight)
            for i, (sample, target) in enumerate(zip(task.samples, targets, strict=True))
        ]
    return found


def _batches(lessons: Sequence[_Lesson], steps: int) -> Iterator[list[_Lesson]]:
    """Yield `steps` batches. Every lesson comes once before any comes again, each time in a new order.
    Samples of similar length stand together, so that there is little padding.
    """
    generator = random.Random(0)
    left: list[list[_Lesson]] = []
    for _ in range(steps):
        if not left:
            order = generator.sample(lessons, len(lessons))
            pools = [
                sorted(order[start : start + POOL * BATCH], key=lambda lesson: length(lesson.sample))
                for start in range(0, len(order), POOL * BATCH)
            ]
            left = [pool[start : start + BATCH] for pool in pools for start in range(0, len(pool), BATCH)]
            generator.shuffle(left)
        yield left.pop()


def _attention(device: torch.device) -> AbstractContextManager[object]:
    """Return a context in which attention has the same gradients at every run, where the faster kernels of a
    GPU add them up in any order, and has them soon, where a processor's own for bfloat16 are slow.
    """
    return sdpa_kernel(SDPBackend.MATH) if device.type == "cuda" else AttentionInFloat32()
