"""The quadratic of docs/method.md, for one linear or one norm, summed over tasks and solved in float64:

L(Q) = sum_t E_t ||Q x_s - W_t x*||^2 / n_t + lambda ||Q - A||_F^2
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from epmq_export.calibration.statistics import PIECES, Moments, accumulate
from epmq_export.errors import CalibrationError
from epmq_export.ranks import ALONE, Ranks
from epmq_export.tensors.low_rank import LowRank

# A channel is undetermined where less than this share of it is independent of the others. The statistics are
# float32 sums, whose noise lies below that.
_NOISE = torch.finfo(torch.float32).eps
# The size of a triangular matrix that is not worth halving.
SMALL = 128
# The strips of columns in which a quadratic is summed.
STRIPS = 8


def inverse_factor(hessian: Tensor, place: str) -> Tensor:
    """Return U, upper triangular, float64 [in, in], with U^T U = H^-1. GPTQ walks along it, and W* is solved
    with it.

    Raises CalibrationError, naming `place`, where H is singular. Nothing is added to H to make it regular.
    """
    # H = R R^T with an upper triangular R is Cholesky's factor of the channels in reverse. U is R's inverse.
    lower, info = torch.linalg.cholesky_ex(hessian.flip(0, 1))
    left_over = lower.diagonal().square().flip(0) / hessian.diagonal()
    undetermined = (~(left_over > _NOISE)).nonzero()
    if int(info) > 0 or len(undetermined):
        channel = len(hessian) - int(info) if int(info) > 0 else int(undetermined[0])
        raise CalibrationError(
            f"{place}: its Hessian is singular at input channel {channel}; raise calibration.lambda, or "
            "give more samples"
        )
    return _inverse_upper(lower.flip(0, 1))


def _inverse_upper(upper: Tensor) -> Tensor:
    """Return the inverse of an upper triangular matrix. Its halves are inverted apart, since a general solve
    computes with all the zeros.
    """
    if len(upper) <= SMALL:
        identity = torch.eye(len(upper), dtype=upper.dtype, device=upper.device)
        inverse: Tensor = torch.linalg.solve_triangular(upper, identity, upper=True)
        return inverse
    half = len(upper) // 2
    found = torch.zeros_like(upper)
    found[:half, :half] = _inverse_upper(upper[:half, :half])
    found[half:, half:] = _inverse_upper(upper[half:, half:])
    found[:half, half:] = -found[:half, :half] @ upper[:half, half:] @ found[half:, half:]
    return found


def _by_upper(left: Tensor, upper: Tensor, transposed: bool) -> Tensor:
    """Return left @ upper.T where `transposed`, else left @ upper, [rows, n], for an upper triangular matrix
    [n, n]. It is multiplied in pieces, without most of its zeros.
    """
    product = torch.empty_like(left)
    size = -(-len(upper) // PIECES)
    for start in range(0, len(upper), size):
        piece, end = slice(start, start + size), min(start + size, len(upper))
        if transposed:
            product[:, piece] = left[:, start:] @ upper[piece, start:].T
        else:
            product[:, piece] = left[:, :end] @ upper[:end, piece]
    return product


def _inner(first: Tensor, second: Tensor) -> float:
    """Return the sum of the products of two matrices' entries, summed in float64."""
    return float((first * second).sum(dtype=torch.float64))


def quadratic(rows: Tensor, hessian: Tensor) -> Tensor:
    """Return x H x^T of each row x of [rows, n], summed in float64, float64 [rows]. H, [n, n], is symmetric.

    Columns meet those before them once, and that counts twice: about half of what x H takes is multiplied.
    """
    total = torch.zeros(len(rows), dtype=torch.float64, device=rows.device)
    size = -(-rows.shape[1] // STRIPS)
    for start in range(0, rows.shape[1], size):
        here = slice(start, start + size)
        image = rows[:, here] @ hessian[here, here]
        image.addmm_(rows[:, :start], hessian[:start, here], alpha=2)
        total += image.mul_(rows[:, here]).sum(1, dtype=torch.float64)
    return total


@dataclass
class LinearProblem:
    """The quadratic of one linear layer [out, in]. Tensors are float64."""

    anchor: Tensor
    """A, the weight [out, in] that `damping` pulls to."""

    damping: float
    """lambda."""

    anchor_bias: Tensor | None
    numerator: Tensor
    """N = sum_t W_t C_t + lambda A, [out, in]."""

    energy: float = 0.0
    """sum_t E_t ||W_t x*||^2 / n_t."""

    scales: float = 0.0
    """sum_t 1 / n_t."""

    bias_sum: Tensor | None = None
    """sum_t (b_t + W_t E_t[x*]) / n_t, [out], where there is a bias."""

    student_mean: Tensor | None = None
    """sum_t E_t[x_s] / n_t, [in]."""

    @classmethod
    def start(cls, anchor: Tensor, anchor_bias: Tensor | None, damping: float) -> "LinearProblem":
        """Return the problem before any task, with the anchor alone."""
        anchor = anchor.double()
        bias = None if anchor_bias is None else anchor_bias.double()
        return cls(anchor=anchor, damping=damping, anchor_bias=bias, numerator=damping * anchor)

    def add(
        self,
        weight: Tensor,
        bias: Tensor | None,
        moments: Moments,
        alpha: float = 0.0,
        own: float = 0.0,
    ) -> None:
        """Add one task, with its expert's weight [out, in] and bias [out].

        `own` is E ||W_t x_t||^2 / n_t over the inputs x_t of the expert itself, which are a share `alpha` of
        x* beside x_s. The energy of the targets follows from it, from C_t and from H_t, so that
        E[x* x*^T] is never needed.
        """
        # The moments are float32 sums, so products in float32 are as exact. Sums over products are not.
        mapped = weight @ moments.cross
        accumulate(self.numerator, mapped, moments.share)
        squared = float(quadratic(weight, moments.student).sum()) if 0 < alpha < 1 else 0.0
        share = moments.share
        self._add_energy(share * _inner(mapped, weight), share * squared, alpha, own)
        self._add_means(bias, moments, lambda mean: weight.double() @ mean)

    def add_change(
        self,
        change: LowRank,
        origin: Tensor,
        bias: Tensor | None,
        moments: Moments,
        alpha: float = 0.0,
        own: float = 0.0,
    ) -> None:
        """Add one task, as `add` does, whose expert's weight is W_0 + P with W_0 = `origin`, float32
        [out, in], and P = `change`. What W_0 alone brings is left to `add_origin`.
        """
        left, right = change.left, change.right
        pulled = left.T @ origin  # P^T W_0 is right^T times this.

        def beyond(image: Tensor, other: Tensor) -> float:
            """Return <W M, W> - <W_0 M, W_0> with W = W_0 + P, of right M and right M^T."""
            found = _inner(image + other, pulled) + _inner(image @ right.T, left.T @ left)
            return moments.share * found

        crossed = right @ moments.cross
        accumulate(self.numerator, left @ crossed, moments.share)
        squared = 0.0
        if 0 < alpha < 1:
            image = right @ moments.student
            squared = beyond(image, image)
        self._add_energy(beyond(crossed, right @ moments.cross.T), squared, alpha, own)
        self._add_means(
            bias, moments, lambda mean: origin.double() @ mean + left.double() @ (right.double() @ mean)
        )

    def add_origin(self, origin: Tensor, cross: Tensor, hessian: Tensor, alpha: float = 0.0) -> None:
        """Add what W_0 = `origin`, float32 [out, in], brings in all tasks that `add_change` has added, which
        are all that there are: sum_t C_t, float32, and H, float64, [in, in], take the place of single tasks.
        """
        mapped = origin @ cross
        accumulate(self.numerator, mapped, 1.0)
        squared = 0.0
        if 0 < alpha < 1:
            squared = float(quadratic(origin, hessian.to(origin.dtype)).sum())
            squared -= self.damping * _inner(origin, origin)  # H is sum_t H_t + lambda I.
        self._add_energy(_inner(mapped, origin), squared, alpha, 0.0)

    def _add_energy(self, crossed: float, squared: float, alpha: float, own: float) -> None:
        """Add E ||W_t x*||^2 / n_t, of <W_t C_t, W_t>, <W_t H_t, W_t> and `own`."""
        if alpha == 0:
            self.energy += crossed
        else:
            self.energy += alpha**2 * own + 2 * (1 - alpha) * crossed - (1 - alpha) ** 2 * squared

    def _add_means(self, bias: Tensor | None, moments: Moments, weigh: Callable[[Tensor], Tensor]) -> None:
        """Add the means of a task. `weigh` multiplies the expert's weight with a vector, float64."""
        self.scales += moments.scale
        mean = moments.scale * moments.student_mean
        self.student_mean = mean if self.student_mean is None else self.student_mean + mean
        if bias is not None:
            share = moments.scale * (bias.double() + weigh(moments.target_mean))
            self.bias_sum = share if self.bias_sum is None else self.bias_sum + share

    def solution(self, factor: Tensor) -> Tensor:
        """Return W* = N H^-1 = N U^T U, float64 [out, in]. `factor` is U."""
        return _by_upper(_by_upper(self.numerator, factor, True), factor, False)

    def bias(self, weight: Tensor) -> Tensor:
        """Return the best bias beside a fixed weight, float64 [out]."""
        assert self.bias_sum is not None and self.student_mean is not None and self.anchor_bias is not None
        return (self.bias_sum - weight.double() @ self.student_mean + self.damping * self.anchor_bias) / (
            self.scales + self.damping
        )


class Loss:
    """L of a weight of one problem, as a share of the targets' energy, sum_t E_t ||W_t x*||^2 / n_t, or 0
    where there is no energy.

    Where W* is known as `best`, L is that of W* and a term of the distance from it. It is small, so a product
    in float32 does, and the hessian may be float32.

    A rank has some rows of the problem and of each weight. All that is summed over rows is summed over the
    `ranks`, which all ask for the same losses in the same order.
    """

    def __init__(
        self, problem: LinearProblem, hessian: Tensor, best: Tensor | None = None, ranks: Ranks = ALONE
    ) -> None:
        self._problem, self._hessian, self._best, self._ranks = problem, hessian, best, ranks
        crossed = 0.0 if best is None else self._crossed(best)
        anchored = problem.damping * float(problem.anchor.square().sum())
        self._energy, anchored, crossed = ranks.total(problem.energy, anchored, crossed)
        # What no weight changes, and L(W*) where it is known.
        self._fixed = self._energy + anchored
        self._least = 0.0 if best is None else max(self._fixed - crossed, 0.0)

    def __call__(self, weight: Tensor) -> float:
        if weight is self._best:
            return self._share(self._least)
        weight = weight.double()
        if self._best is not None:
            step = (weight - self._best).float()
            return self.above(float(quadratic(step, self._hessian.float()).sum()))
        of_rank = float(quadratic(weight, self._hessian).sum()), self._crossed(weight)
        squared, crossed = self._ranks.total(*of_rank)
        return self._share(max(self._fixed + squared - 2.0 * crossed, 0.0))

    def above(self, rise: float) -> float:
        """Return L of a weight whose L, before it is made a share, is above that of W*: by `rise` in this
        rank's rows.
        """
        (risen,) = self._ranks.total(rise)
        return self._share(self._least + risen)

    def _crossed(self, weight: Tensor) -> float:
        return float((weight * self._problem.numerator).sum())

    def _share(self, loss: float) -> float:
        return loss / self._energy if self._energy > 0 else 0.0


@dataclass
class NormProblem:
    """The affine part of a norm, channel by channel: gamma z + beta is fitted to gamma_t z* + beta_t, with
    the same anchor term. A norm that does not shift has gamma alone.

    Each channel is a 2x2 system, or one equation. The sums are float64 [channels].
    """

    shifted: bool
    zz: Tensor
    z: Tensor
    one: float
    zy: Tensor
    y: Tensor

    @classmethod
    def start(cls, gamma: Tensor, beta: Tensor | None, damping: float) -> "NormProblem":
        """Return the problem before any task, with the anchor alone."""
        gamma = gamma.double()
        zero = torch.zeros_like(gamma)
        y = zero if beta is None else damping * beta.double()
        return cls(
            shifted=beta is not None,
            zz=torch.full_like(gamma, damping),
            z=zero,
            one=damping,
            zy=damping * gamma,
            y=y,
        )

    def add(self, gamma: Tensor, beta: Tensor | None, moments: Moments) -> None:
        """Add one task, with its expert's gamma and beta, [channels]."""
        gamma = gamma.double()
        mean, target_mean = moments.scale * moments.student_mean, moments.scale * moments.target_mean
        self.zz = self.zz + moments.share * moments.student.diagonal().double()
        self.z = self.z + mean
        self.one += moments.scale
        self.zy = self.zy + moments.share * gamma * moments.cross.diagonal()
        self.y = self.y + gamma * target_mean
        if beta is not None:
            beta = beta.double()
            self.zy = self.zy + beta * mean
            self.y = self.y + beta * moments.scale

    def solution(self, place: str) -> tuple[Tensor, Tensor | None]:
        """Return gamma, and beta where the norm has one, float64 [channels].

        Raises CalibrationError, naming `place`, where the tasks do not determine a channel.
        """
        determinant = self.zz * self.one - self.z.square() if self.shifted else self.zz
        if not bool((determinant > 0).all()):
            channel = int((~(determinant > 0)).nonzero()[0])
            raise CalibrationError(
                f"{place}: channel {channel} does not determine its scale and shift; raise calibration.lambda"
            )
        if not self.shifted:
            return self.zy / self.zz, None
        gamma = (self.zy * self.one - self.z * self.y) / determinant
        return gamma, (self.y - gamma * self.z) / self.one
