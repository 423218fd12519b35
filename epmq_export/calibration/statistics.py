"""Running sums over rows and tasks. They are all that a solve needs, so memory does not grow with samples or
experts.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from epmq_export.errors import CalibrationError


@dataclass
class TaskMoments:
    """Second moments of one task's student inputs x_s and target inputs x*, [in, in], and their means, [in];
    float32 sums.
    """

    student: Tensor
    cross: Tensor
    target: Tensor
    student_mean: Tensor
    target_mean: Tensor
    weight: float = 0.0

    @classmethod
    def zeros(cls, width: int, device: torch.device) -> "TaskMoments":
        def square() -> Tensor:
            return torch.zeros(width, width, device=device)

        return cls(
            square(), square(), square(), torch.zeros(width, device=device), torch.zeros(width, device=device)
        )

    def add(self, student: Tensor, target: Tensor | None, weights: Tensor) -> None:
        """Add rows [n, in] with weights [n]; a target of None is the student's own input (alpha = 0)."""
        weighted = student * weights[:, None]
        self.student.addmm_(weighted.T, student)
        self.student_mean += weighted.sum(0)
        if target is not None:
            self.cross.addmm_(target.T, weighted)
            weighted = target * weights[:, None]
            self.target.addmm_(weighted.T, target)
            self.target_mean += weighted.sum(0)
        self.weight += float(weights.sum())

    def moments(self, same: bool, place: str) -> "Moments":
        """Expectations in float64, over n_t = ||E[x_s x_s^T]||_F. CalibrationError, naming `place`, where
        they are not finite.
        """
        student = self.student.double().div_(self.weight)
        norm = float(student.norm())
        if not norm < float("inf"):
            raise CalibrationError(
                f"{place}: its inputs are not finite on the calibration data; look for NaN or Inf in the "
                "checkpoints"
            )
        # Inputs that are zero throughout carry no information: they weigh nothing instead of dividing by
        # zero.
        scale = 1.0 / norm if norm > 0 else 0.0
        student_mean = self.student_mean.double() / self.weight
        student.mul_(scale)
        if same:
            return Moments(student, student, student, student_mean, student_mean, scale)
        cross, target = (
            self.cross.double().mul_(scale / self.weight),
            self.target.double().mul_(scale / self.weight),
        )
        if not float(cross.norm() + target.norm()) < float("inf"):
            raise CalibrationError(
                f"{place}: the expert's inputs are not finite on the calibration data; look for NaN or "
                "Inf in its checkpoint"
            )
        return Moments(student, cross, target, student_mean, self.target_mean.double() / self.weight, scale)


@dataclass(frozen=True)
class Moments:
    """H_t, C_t = E[x* x_s^T] and E[x* x*^T], each over n_t; the means of x_s and x*; and s_t = 1 / n_t.
    float64.
    """

    student: Tensor
    cross: Tensor
    target: Tensor
    student_mean: Tensor
    target_mean: Tensor
    scale: float
