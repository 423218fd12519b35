"""The stage `refine`: the whole calibrated model is trained to give each expert's outputs on the calibration
samples, and stays on its grids.

It is distillation without labels. The error that layer by layer least squares leaves is mostly a bias: each
layer does a little less than its experts do, and these shares multiply. Here the loss is that of the whole
model.
"""

import math
import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import torch
from torch import Tensor, nn

from epmq_export.calibration.calibrator import TaskData
from epmq_export.calibration.divergence import divergence
from epmq_export.calibration.refinement import BATCH, HELD_OUT, Refinement
from epmq_export.calibration.student import Calibrated, Student, Tensors
from epmq_export.errors import CalibrationError
from epmq_export.models import reference
from epmq_export.models.family import Family
from epmq_export.models.heads import Head, Reading
from epmq_export.models.samples import Sample, length

POOL = 8
WARM_UP = 20


@dataclass(frozen=True)
class Refined:
    """The best state that was found."""

    before: float
    """The mean divergence from the experts' outputs on the held-out samples, before the stage."""

    after: float
    """The same for the state that is kept. It is never above `before`."""

    step: int
    """The step of the state that is kept. 0 is the start."""

    tensors: Tensors = field(default_factory=dict)
    """What was trained, as the state that is kept has it, in memory and on the same grids; nothing where that
    is the start.
    """

    @property
    def gain(self) -> dict[str, float]:
        """Return the numbers that packed.json has of it."""
        return {"before": self.before, "after": self.after, "step": self.step}


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
    calibrated: Calibrated,
    settings: Refinement,
    device: torch.device,
    progress: Callable[[str, int, int], None] = lambda text, done, total: None,
) -> Refined:
    """Train the linears, biases and norms of a calibrated model, or biases and norms alone. Return the best
    of its states on held-out samples, which may be the start.

    Where the linears are trained, the whole model is in memory, with its gradients and Adam's two moments: 16
    bytes a weight. Else it is so up to `student.HELD`, and one block at a time beyond.

    Raises CalibrationError where the loss is not finite, or a task has too few samples.
    """
    require_samples(tasks)
    student = Student(family, calibrated, settings.weights, device)
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
    best = Refined(before=before, after=before, step=0)
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
                best = replace(best, after=after, step=step, tensors=student.tensors())
    progress("refine", settings.steps, settings.steps)
    return best


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
