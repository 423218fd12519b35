"""Running sums over rows and tasks. A solve needs nothing else, so memory does not grow with samples or
experts.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from epmq_export.errors import CalibrationError
from epmq_export.ranks import Ranks

# The products of a symmetric matrix are made in so many pieces, each without what lies left of it.
PIECES = 4
# The rows of a strip of a matrix on the processor.
STRIP = 256


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

    def add_up(self, same: bool, ranks: Ranks) -> None:
        """Put the sums over all ranks in the place of this rank's. `same` says that there are no targets."""
        targets = [] if same else [self.cross, self.target_mean]
        ranks.add_up([self.student, self.student_mean, *targets])
        (self.weight,) = ranks.total(self.weight)

    def moments(self, same: bool, place: str) -> "Moments":
        """Return what these sums say. They are not copied: nothing may be added to them any more. `same` says
        that the targets were the student's own inputs. Sums of no rows say nothing: all is 0.

        Raises CalibrationError, naming `place`, where they are not finite.
        """
        _mirror(self.student)
        weight = self.weight or 1.0
        norm = _length(self.student) / weight
        if not norm < float("inf"):
            raise CalibrationError(
                f"{place}: its inputs are not finite on the calibration data; look for NaN or Inf in the "
                "checkpoints"
            )
        if not same and not _length(self.cross) < float("inf"):
            raise CalibrationError(
                f"{place}: the expert's inputs are not finite on the calibration data; look for NaN or "
                "Inf in its checkpoint"
            )
        # Inputs that are all zero carry no information. They get weight 0 instead of a division by zero.
        scale = 1.0 / norm if norm > 0 else 0.0
        mean = self.student_mean.double() / weight
        return Moments(
            student=self.student,
            cross=self.student if same else self.cross,
            share=scale / weight,
            student_mean=mean,
            target_mean=mean if same else self.target_mean.double() / weight,
            scale=scale,
        )


@dataclass(frozen=True)
class Moments:
    """The moments of one task: H_t = E[x_s x_s^T] and C_t = E[x* x_s^T], each over n_t = ||E[x_s x_s^T]||_F;
    the means of x_s and x*, float64; and s_t = 1 / n_t.
    """

    student: Tensor
    """The sum that is H_t when it is multiplied with `share`, float32 [in, in], symmetric."""

    cross: Tensor
    """The sum that is C_t when it is multiplied with `share`, float32 [in, in]."""

    share: float
    student_mean: Tensor
    target_mean: Tensor
    scale: float


def accumulate(total: Tensor, matrix: Tensor, share: float) -> None:
    """Add a share of a matrix to a total of another dtype, in place."""
    for into, part in zip(_strips(total), _strips(matrix), strict=True):
        into.add_(part, alpha=share)


def _mirror(matrix: Tensor) -> None:
    """Make a matrix symmetric whose upper triangle counts, in place."""
    size = _rows(matrix)
    for start in range(0, len(matrix), size):
        here = slice(start, start + size)
        for after in range(start + size, len(matrix), size):
            there = slice(after, after + size)
            matrix[there, here] = matrix[here, there].T
        square = matrix[here, here]
        square.copy_(square.triu() + square.triu(1).T)


def _length(matrix: Tensor) -> float:
    """Return the Frobenius norm, summed in float64."""
    return float(torch.stack([part.double().norm() for part in _strips(matrix)]).norm())


def _strips(matrix: Tensor) -> tuple[Tensor, ...]:
    """Return the rows of a matrix in strips. A copy of one stays in the processor's cache; a copy of a large
    matrix takes several times as long as what is computed with it.
    """
    return torch.split(matrix, _rows(matrix))


def _rows(matrix: Tensor) -> int:
    return STRIP if matrix.device.type == "cpu" else len(matrix)
