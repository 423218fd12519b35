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
from epmq_export.calibration.refinement import BATCH, HELD_OUT, LESSONS, TRIAL, Refinement
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

    rate: float
    """The learning rate that was taken."""

    tensors: Tensors = field(default_factory=dict)
    """What was trained, as the state that is kept has it, in memory and on the same grids; nothing where that
    is the start.
    """

    @property
    def gain(self) -> dict[str, float]:
        """Return the numbers that packed.json has of it."""
        return {"before": self.before, "after": self.after, "step": self.step, "rate": self.rate}


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

    Where there are several learning rates, the best of short trials is taken.

    Where the linears are trained, the whole model is in memory, with its gradients and Adam's two moments: 16
    bytes a weight. Else it is so up to `student.HELD`, and one block at a time beyond.

    Raises CalibrationError where the loss is not finite, or a task has too few samples.
    """
    require_samples(tasks)
    student = Student(family, calibrated, settings.weights, device)
    lessons = _lessons(family, tasks, device)
    held = sorted((lesson for lesson in lessons if lesson.held_out), key=lambda lesson: length(lesson.sample))
    course = _Course(family, student, held, settings, progress)
    batches = [*_batches([lesson for lesson in lessons if not lesson.held_out], settings.steps)]
    before = course.held_out()
    start = Refined(before=before, after=before, step=0, rate=settings.rate)
    best = course.tried(batches[:TRIAL], start) if settings.faster else start
    if not settings.faster or len(batches) > TRIAL:
        best = course.trained(batches, best)
    progress("refine", settings.most, settings.most)
    return best


@dataclass
class _Course:
    """The training of a student."""

    family: Family
    student: Student
    held: Sequence["_Lesson"]
    """The lessons that it is judged by, those of short samples first."""

    settings: Refinement
    progress: Callable[[str, int, int], None]
    done: int = 0
    """The steps behind it, with those of all trials."""

    def loss(self, chosen: Sequence["_Lesson"]) -> Tensor:
        (batch,) = self.family.batches([lesson.sample for lesson in chosen], len(chosen))
        outputs = self.student.output(batch)
        return torch.cat(
            [
                lesson.weight * divergence(output[None], lesson.target[None], lesson.head)
                for output, lesson in zip(outputs, chosen, strict=True)
            ]
        ).mean()

    @torch.no_grad()
    def held_out(self) -> float:
        parts = [self.held[start : start + BATCH] for start in range(0, len(self.held), BATCH)]
        return sum(float(self.loss(part)) * len(part) for part in parts) / len(self.held)

    def tried(self, batches: Sequence[Sequence["_Lesson"]], start: Refined) -> Refined:
        """Train with each rate for these batches alone, the lowest first, until one is no better than that
        before it. Return what the best one has found, with the student where it was.
        """
        origin = self.student.state()
        best = self.trained(batches, start)
        self.student.restore(origin)
        for rate in self.settings.faster:
            try:
                found = self.trained(batches, replace(start, rate=rate))
            except CalibrationError:  # The numbers have run away, which says that the rate is too high.
                break
            finally:
                self.student.restore(origin)
            if found.after >= best.after:
                break
            best = found
        return best

    def trained(self, batches: Sequence[Sequence["_Lesson"]], best: Refined) -> Refined:
        """Train from the state that the student is in, with the rate of `best`. Return the best state on the
        way, or `best`.
        """
        steps = len(batches)
        # Fused, each parameter is read and written once a step.
        optimiser = torch.optim.Adam(self.student.groups(best.rate), betas=(0.9, 0.98), fused=True)
        schedule = torch.optim.lr_scheduler.LambdaLR(
            optimiser,
            lambda step: min((step + 1) / WARM_UP, 0.5 + 0.5 * math.cos(math.pi * step / steps)),
        )
        for step, chosen in enumerate(batches, 1):
            self.progress("refine", self.done, self.settings.most)
            self.done += 1
            value = self.loss(chosen)
            if not bool(torch.isfinite(value)):
                raise CalibrationError(
                    f"refine: the loss is not finite at step {step}; look for NaN or Inf in the checkpoints"
                )
            optimiser.zero_grad()
            value.backward()  # type: ignore[no-untyped-call]
            nn.utils.clip_grad_norm_(self.student.parameters(), 1.0)
            optimiser.step()
            schedule.step()
            if step == steps or step % max(steps // self.settings.checks, 1) == 0:
                after = self.held_out()
                if after < best.after:
                    best = replace(best, after=after, step=step, tensors=self.student.tensors())
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
            _Lesson(sample, target, head, i < LESSONS and i % HELD_OUT == HELD_OUT - 1, weight)
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
