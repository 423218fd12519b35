"""The stage `refine`: the whole calibrated model is trained to give each expert's outputs on the calibration texts, and ends on its grids.

Distillation without labels. What layer by layer least squares leaves is mostly a bias: each layer does a share too little of what its
experts do, and the shares multiply. Here the loss is that of the whole model. Codes are trained straight through their rounding
(Bengio et al., arXiv 1308.3432), steps as in LSQ (arXiv 1902.08153).
"""

import math
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cosine_similarity
from torch.nn.utils import parametrize

from epmq_export.calibration.calibrate import TaskData
from epmq_export.calibration.forward import load_block
from epmq_export.errors import CalibrationError
from epmq_export.family import Family
from epmq_export.grids import Grid
from epmq_export.grids.grid import inverse
from epmq_export.packed import PackedTensor
from epmq_export.runtimes import torch as reference

Tensors = dict[str, PackedTensor | Tensor]
BATCH = 32
# Of each task's texts, one in so many is never trained on: it says which step was the best.
HELD_OUT = 8
CHECKS = 10
WARM_UP = 20


@dataclass(frozen=True)
class Refinement:
    steps: int
    rate: float = 1e-4
    """Adam's, of the linears' weights. Biases and norms take three times, steps and offsets a tenth of it."""


@dataclass(frozen=True)
class Refined:
    tensors: Tensors
    before: float
    """Mean 1 - cosine to the experts' outputs on the held-out texts, of the start."""

    after: float
    """Of what is kept; never above `before`."""

    step: int
    """The step that is kept; 0 is the start."""


class _OnGrid(nn.Module):
    """A linear's weight, rounded as it is used: its latent values [out, in] to codes under steps and offsets that the grid can store."""

    def __init__(self, packed: PackedTensor) -> None:
        super().__init__()
        step, offset = packed.grid.steps(packed.stored)
        self.grid = packed.grid
        self.step = nn.Parameter(step.clone())
        self.offset = None if offset is None else nn.Parameter(offset.clone())

    def forward(self, latent: Tensor) -> Tensor:
        result: Tensor = _Round.apply(latent, self.step, self.offset, self.grid)
        return result

    def packed(self, latent: Tensor) -> PackedTensor:
        with torch.no_grad():
            stored = self.grid.round(self.step, self.offset)
            codes, *_ = _codes(self.grid, latent, *self.grid.steps(stored))
        return PackedTensor(self.grid, codes.reshape(latent.shape), {part: value.clone() for part, value in stored.items()})


class _Round(torch.autograd.Function):
    """Latent values to values on the grid. Straight through: inside the range a latent value moves its weight one to one."""

    @staticmethod
    def forward(context: Any, latent: Tensor, step: Tensor, offset: Tensor | None, grid: Grid) -> Tensor:  # noqa: ANN401
        codes, step, offset = _codes(grid, latent, *grid.steps(grid.round(step, offset)))
        ratio = (latent.reshape(codes.shape) if offset is None else latent.reshape(codes.shape) - offset) * inverse(step)
        level = grid.level(codes)
        # Half a step past the last level is still what that level stands for.
        inside = (ratio > grid.levels[0] - 0.5) & (ratio < grid.levels[-1] + 0.5)
        context.save_for_backward(level - ratio * inside, inside)
        context.offset = offset is not None
        return grid.decode(codes, step, offset).reshape(latent.shape)

    @staticmethod
    def backward(context: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, Tensor | None, None]:  # noqa: ANN401
        along, inside = context.saved_tensors
        gradient = gradients[0].reshape(inside.shape)
        offset = (gradient * ~inside).sum(2) if context.offset else None
        return (gradient * inside).reshape(gradients[0].shape), (gradient * along).sum(2), offset, None


def _codes(grid: Grid, latent: Tensor, step: Tensor, offset: Tensor | None) -> tuple[Tensor, Tensor, Tensor | None]:
    """Codes [out, subgroups, subgroup], and step and offset in a shape that broadcasts to them."""
    step, offset = step[:, :, None], None if offset is None else offset[:, :, None]
    return grid.encode(latent.reshape(len(latent), -1, grid.subgroup), step, offset), step, offset


def refine(
    family: Family, tasks: Sequence[TaskData], tensors: Mapping[str, PackedTensor | Tensor], settings: Refinement, device: torch.device,
    progress: Callable[[str, int, int], None] = lambda text, done, total: None,
) -> Refined:  # fmt: skip
    """Train the linears, biases and norms of a calibrated model; the best of its states on held-out texts is returned, or the start.

    All of the model is in memory, with its gradients and Adam's two moments: 16 bytes a weight. CalibrationError where the loss is not finite.
    """
    student = _Student(family, tensors, device)
    texts = [(task.name, text) for task in tasks for text in task.texts]
    targets = torch.cat([torch.from_numpy(reference.outputs(family, task.expert, task.texts, device)) for task in tasks]).to(device)
    held = [i for start, task in _starts(tasks) for i in range(start, start + len(task.texts)) if (i - start) % HELD_OUT == HELD_OUT - 1]
    trained = sorted({*range(len(texts))} - {*held})
    if not held:
        raise CalibrationError(f"refine holds out one text in {HELD_OUT} of each task and found fewer texts than that; raise calibration.samples")

    def loss(chosen: Sequence[int]) -> Tensor:
        (batch,) = family.batches([texts[i][1] for i in chosen], len(chosen))
        return 1 - cosine_similarity(student.output(batch), targets[list(chosen)]).mean()

    @torch.no_grad()
    def held_out() -> float:
        parts = [held[start : start + BATCH] for start in range(0, len(held), BATCH)]
        return sum(float(loss(part)) * len(part) for part in parts) / len(held)

    optimiser = torch.optim.Adam(student.groups(settings.rate), betas=(0.9, 0.98))
    schedule = torch.optim.lr_scheduler.LambdaLR(optimiser, lambda step: min((step + 1) / WARM_UP, 0.5 + 0.5 * math.cos(math.pi * step / settings.steps)))
    before = held_out()
    best = Refined(dict(tensors), before, before, 0)
    for step, chosen in enumerate(_batches(trained, settings.steps), 1):
        progress("refine", step - 1, settings.steps)
        value = loss(chosen)
        if not bool(torch.isfinite(value)):
            raise CalibrationError(f"refine: the loss is not finite at step {step}; look for NaN or Inf in the checkpoints, or use a smaller rate")
        optimiser.zero_grad()
        value.backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        optimiser.step()
        schedule.step()
        if step == settings.steps or step % max(settings.steps // CHECKS, 1) == 0:
            after = held_out()
            if after < best.after:
                best = Refined({**tensors, **student.tensors()}, before, after, step)
    progress("refine", settings.steps, settings.steps)
    return best


class _Student:
    """The calibrated model, whole, with what is trained."""

    def __init__(self, family: Family, tensors: Mapping[str, PackedTensor | Tensor], device: torch.device) -> None:
        self._family, self._device = family, device
        source = _Dequantised(tensors)
        self._modules = {block.name: load_block(block, source, device).requires_grad_(False) for block in family.blocks}
        self._linears: list[tuple[str, nn.Module]] = []
        self._affine: list[tuple[str, nn.Parameter]] = []
        for block in family.blocks:
            for path in (path for step in block.steps for path in step):
                module, name = self._modules[block.name].get_submodule(path), f"{block.name}.{path}"
                value = tensors[f"{name}.weight"]
                if isinstance(value, PackedTensor):
                    parametrize.register_parametrization(module, "weight", _OnGrid(_on(value, device)), unsafe=True)
                    self._linears.append((f"{name}.weight", module))
                self._affine += [(f"{name}.{key}", parameter) for key, parameter in module.named_parameters(recurse=False) if parameter.ndim == 1]
        for parameter in self.parameters():
            parameter.requires_grad_(True)

    def output(self, batch: Mapping[str, Tensor]) -> Tensor:
        """float32 [batch, width]."""
        hidden: Tensor | None = None
        batch = {key: value.to(self._device) for key, value in batch.items()}
        with torch.autocast(self._device.type, torch.bfloat16, enabled=_fast_bfloat16(self._device)):
            for block in self._family.blocks:
                hidden = block.run(self._modules[block.name], hidden, batch)
        assert hidden is not None
        return self._family.output(hidden.float(), batch)

    def parameters(self) -> list[nn.Parameter]:
        return [parameter for group in self.groups(0.0) for parameter in group["params"]]

    def groups(self, rate: float) -> list[dict[str, Any]]:
        grids = [_parametrization(module) for _, module in self._linears]
        return [
            {"params": [latent for latent, _ in grids], "lr": rate},
            {"params": [parameter for _, grid in grids for parameter in grid.parameters()], "lr": rate / 10},
            {"params": [parameter for _, parameter in self._affine], "lr": rate * 3},
        ]

    def tensors(self) -> Tensors:
        """What is trained, as it stands, on the grids."""
        found: Tensors = {name: parameter.detach().clone() for name, parameter in self._affine}
        for name, module in self._linears:
            latent, grid = _parametrization(module)
            found[name] = grid.packed(latent)
        return found


def _parametrization(module: nn.Module) -> tuple[nn.Parameter, _OnGrid]:
    found: Any = module.parametrizations
    return found.weight.original, found.weight[0]


@dataclass(frozen=True)
class _Dequantised:
    values: Mapping[str, PackedTensor | Tensor]

    def names(self) -> list[str]:
        return sorted(self.values)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.load(name).shape)

    def load(self, name: str) -> Tensor:
        value = self.values[name]
        return value.dequantise() if isinstance(value, PackedTensor) else value.clone()


def _on(packed: PackedTensor, device: torch.device) -> PackedTensor:
    return PackedTensor(packed.grid, packed.codes.to(device), {part: value.to(device) for part, value in packed.stored.items()})


def _starts(tasks: Sequence[TaskData]) -> Iterator[tuple[int, TaskData]]:
    start = 0
    for task in tasks:
        yield start, task
        start += len(task.texts)


def _batches(trained: Sequence[int], steps: int) -> Iterator[list[int]]:
    """Every text once before any comes again, in an order of its own each time."""
    order: list[int] = []
    generator = random.Random(0)
    for _ in range(steps):
        if len(order) < min(BATCH, len(trained)):
            order = generator.sample(trained, len(trained))
        chosen, order = order[:BATCH], order[BATCH:]
        yield chosen


def _fast_bfloat16(device: torch.device) -> bool:
    """Whether the device multiplies bfloat16 itself: half the time and more, at an error far below that of 4 bits."""
    if device.type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device.type == "cpu" and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())
