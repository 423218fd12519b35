"""Running sums over rows and tasks. A solve needs nothing else, so memory does not grow with samples or
experts.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from epmq_export.errors import CalibrationError

# The products of a symmetric matrix are made in so many pieces, each without what lies left of it.
PIECES = 4


@dataclass
class TaskMoments:
    """Sums of second moments of one task's student inputs x_s and target inputs x*, float32 [in, in], and of
    their means, float32 [in].
    """

    student: Tensor
    """Only its upper triangle counts until `moments` makes the lower one of it."""

    cross: Tensor
    student_mean: Tensor
    target_mean: Tensor
    weight: float = 0.0

    @classmethod
    def zeros(cls, width: int, device: torch.device) -> "TaskMoments":
        """Return empty sums."""

        def square() -> Tensor:
            return torch.zeros(width, width, device=device)

        return cls(
            student=square(),
            cross=square(),
            student_mean=torch.zeros(width, device=device),
            target_mean=torch.zeros(width, device=device),
        )

    def add(self, student: Tensor, target: Tensor | None, weights: Tensor) -> None:
        """Add rows [n, in] with weights [n], which are on the processor. A target of None is the student's
        own input (alpha = 0).
        """
        self.weight += float(weights.sum())
        weights = weights.to(student.device, non_blocking=True)
        weighted = student * weights[:, None]
        width = student.shape[1]
        size = -(-width // PIECES)
        for start in range(0, width, size):
            piece = slice(start, start + size)
            self.student[piece, start:].addmm_(weighted[:, piece].T, student[:, start:])
        self.student_mean += weighted.sum(0)
        if target is not None:
            self.cross.addmm_(target.T, weighted)
            self.target_mean += (target * weights[:, None]).sum(0)

    def moments(self, same: bool, place: str) -> "Moments":
        """Return the expectations in float64, over n_t = ||E[x_s x_s^T]||_F. `same` says that the targets
        were the student's own inputs.

        Raises CalibrationError, naming `place`, where they are not finite.
        """
        upper = self.student.triu()
        student = (upper + upper.triu(1).T).double().div_(self.weight)
        norm = float(student.norm())
        if not norm < float("inf"):
            raise CalibrationError(
                f"{place}: its inputs are not finite on the calibration data; look for NaN or Inf in the "
                "checkpoints"
            )
        # Inputs that are all zero carry no information. They get weight 0 instead of a division by zero.
        scale = 1.0 / norm if norm > 0 else 0.0
        student_mean = self.student_mean.double() / self.weight
        student.mul_(scale)
        if same:
            return Moments(
                student=student,
                cross=student,
                student_mean=student_mean,
                target_mean=student_mean,
                scale=scale,
            )
        cross = self.cross.double().mul_(scale / self.weight)
        if not float(cross.norm()) < float("inf"):
            raise CalibrationError(
                f"{place}: the expert's inputs are not finite on the calibration data; look for NaN or "
                "Inf in its checkpoint"
            )
        return Moments(
            student=student,
            cross=cross,
            student_mean=student_mean,
            target_mean=self.target_mean.double() / self.weight,
            scale=scale,
        )


@dataclass(frozen=True)
class Moments:
    """The moments of one task, float64: H_t = E[x_s x_s^T] and C_t = E[x* x_s^T], each over n_t; the means of
    x_s and x*; and s_t = 1 / n_t.
    """

    student: Tensor
    cross: Tensor
    student_mean: Tensor
    target_mean: Tensor
    scale: float
