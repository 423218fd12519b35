"""The solve of a block's steps: statistics, W*, rounding. Each step sees what the steps before it ship."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from epmq_export.calibration.calibrator import Calibrator, LayerLoss
from epmq_export.calibration.descent import descend
from epmq_export.calibration.rounding import store
from epmq_export.calibration.shared import joined
from epmq_export.calibration.shipped_block import ShippedBlock
from epmq_export.calibration.solver import LinearProblem, Loss, NormProblem, inverse_factor
from epmq_export.calibration.statistics import Moments, TaskMoments, accumulate
from epmq_export.calibration.step_rows import StepRows
from epmq_export.errors import CalibrationError
from epmq_export.grids import Grid
from epmq_export.grids.layout import Storage, storage_name
from epmq_export.models.rms_norm import RmsNorm
from epmq_export.ranks import ALONE
from epmq_export.tensors.low_rank import LowRank, added_to
from epmq_export.tensors.packed import PackedTensor, dequantised
from epmq_export.tensors.source import TensorSource


class StepSolver:
    """The solves of one block. What they find is shipped."""

    def __init__(
        self, calibrator: Calibrator, shipped: ShippedBlock, rows: StepRows, merged: Mapping[str, Tensor]
    ) -> None:
        """`merged` has the merge's tensors by their paths in the block."""
        self.c, self.shipped, self.rows, self.merged = calibrator, shipped, rows, merged
        self.losses: list[LayerLoss] = []
        self.unreached: dict[str, int] = {}
        # Each of these solves some rows. Solves that are measured are all done by each rank.
        self.solvers = calibrator.ranks if calibrator.measure is None else ALONE

    def solve(self, step: tuple[str, ...]) -> None:
        """Solve and round the linears or the norm of a step.

        Raises CalibrationError where a system is singular or a number is not finite.
        """
        if isinstance(self.shipped.student.get_submodule(step[0]), nn.LayerNorm | RmsNorm):
            if self.c.method.affine == "solved":
                self._solve_norm(step[0])
        else:
            self._solve_linears(step)

    def _solve_linears(self, step: tuple[str, ...]) -> None:
        problems = {}
        for path in step:
            rows = self._own_rows(path)
            bias = self._anchor(f"{path}.bias")[rows] if f"{path}.bias" in self.merged else None
            anchor = self._anchor(f"{path}.weight")[rows]
            problems[path] = LinearProblem.start(anchor, bias, self.c.method.damping)
        hessian = self._add_tasks(step, problems)
        factor = inverse_factor(hessian, self.shipped.name(step[0])) if self._needs_factor() else None
        together: dict[Storage, dict[str, Tensor]] = {}
        for path, problem in problems.items():
            best = self._best(path, problem, factor)
            if self.c.measure is not None:
                self.c.measure(self.shipped.weight(path), best, factor, self._loss(problem, hessian, best))
            storage = self.shipped.storage(f"{path}.weight", self.shipped.shape(path))
            together.setdefault(storage, {})[path] = best
        for storage, wanted in together.items():
            self._round(storage, wanted, problems, hessian, factor)

    def _add_tasks(self, step: tuple[str, ...], problems: dict[str, LinearProblem]) -> Tensor:
        """Add all tasks to the problems of a step; return H, float64 [in, in].

        What all experts share, as those that are adapters on the base do, is multiplied with the sum of the
        tasks' moments, once, and only what each adds to it with its own.
        """
        width = self.shipped.shape(step[0])[1]
        hessian = self.c.method.damping * torch.eye(width, dtype=torch.float64, device=self.c.device)
        alpha = self.c.method.alpha if self.rows.experts_run else 0.0
        shared, cross = self._shared(step), None
        for t in range(len(self.c.tasks)):
            moments = self._moments(step, t)
            accumulate(hessian, moments.student, moments.share)
            for path, problem in problems.items():
                rows = self._own_rows(path)
                bias = None if problem.anchor_bias is None else self._target(t, f"{path}.bias")[rows]
                own = self.rows.energies.mean(path, t) * moments.scale if self.rows.experts_run else 0.0
                if self.solvers.index > 0:
                    own = 0.0  # It is that of all rows, which the ranks' energies add up to.
                if shared is None:
                    problem.add(self._target(t, f"{path}.weight")[rows], bias, moments, alpha, own)
                else:
                    origin, changes = shared[path]
                    problem.add_change(changes[t], origin, bias, moments, alpha, own)
            if shared is not None:
                cross = torch.zeros_like(moments.cross) if cross is None else cross
                cross.add_(moments.cross, alpha=moments.share)
        if shared is not None and cross is not None:
            for path, problem in problems.items():
                problem.add_origin(shared[path][0], cross, hessian, alpha)
        return hessian

    def _shared(self, step: tuple[str, ...]) -> dict[str, tuple[Tensor, list[LowRank]]] | None:
        """Return the rows of the weight that the targets of a step's linears share, float32, and what each
        task's adds to them, by path; None where some expert is no adapter on the base, or there is one task
        alone.
        """
        if self.c.method.target == "merged" or len(self.c.tasks) == 1:
            return None
        found = {}
        for path in step:
            name = self.shipped.weight(path)
            origin = self.c.base.load(name).float()
            changes = [added_to(task.expert, name, origin) for task in self.c.tasks]
            if any(change is None for change in changes):
                return None
            rows = self._own_rows(path)
            own = [change.rows(rows).to(self.c.device) for change in changes if change is not None]
            found[path] = origin[rows].to(self.c.device), own
        return found

    def _best(self, path: str, problem: LinearProblem, factor: Tensor | None) -> Tensor:
        """Return W*, float64."""
        if self.c.method.target == "merged":
            best = self._merged_rows(path).double()  # Here N = W_m H, so W* is W_m itself.
        else:
            assert factor is not None
            best = problem.solution(factor)
        if not bool(torch.isfinite(best).all()):
            raise CalibrationError(
                f"{self.shipped.weight(path)}: its solution is not finite; look for NaN or Inf in the "
                "checkpoints"
            )
        return best

    def _round(
        self,
        storage: Storage,
        wanted: dict[str, Tensor],
        problems: dict[str, LinearProblem],
        hessian: Tensor,
        factor: Tensor | None,
    ) -> None:
        """Round in one pass all linears of a step that go on one grid. They share H, and rows do not depend
        on each other.
        """
        best = torch.cat([*wanted.values()])
        greedy = factor if self.c.method.rounding != "nearest" and isinstance(storage, Grid) else None
        # L of each row beyond that of W*, which both roundings know.
        rises = [None if greedy is None else torch.empty(len(best), device=best.device)] * 2
        value = first = store(" and ".join(map(self.shipped.weight, wanted)), best, storage, greedy, rises[0])
        if self.c.method.rounding == "descent" and isinstance(first, PackedTensor):
            aim = torch.cat([problems[path].numerator.float() for path in wanted]) if self._solved else None
            found = descend(best, hessian, first, aim, rises[0])
            value, rises[1] = found.packed, found.rise
        start, single = 0, hessian.float() if self._solved else hessian
        for path, each in wanted.items():
            rows = slice(start, start := start + len(each))
            problem, shipped, count = problems[path], _rows(value, rows), self._count(path)
            loss = self._loss(problem, single, each)
            rounded, after = (
                loss(dequantised(_rows(weight, rows)))
                if rise is None or not self._solved
                else loss.above(float(rise[rows].sum(dtype=torch.float64)))
                for weight, rise in zip((first, value), rises, strict=True)
            )
            merged, name = loss(self._merged_rows(path)), self.shipped.weight(path)
            self.losses.append(LayerLoss(name, storage_name(storage), merged, loss(each), rounded, after))
            self.shipped.ship(f"{path}.weight", joined(shipped, count, self.solvers))
            if problem.anchor_bias is not None and self.c.method.affine == "solved":
                bias = problem.bias(dequantised(shipped)).float()
                self.shipped.ship(f"{path}.bias", self.solvers.joined(bias, count))

    @property
    def _solved(self) -> bool:
        """Return whether W* is the solution of the problem, N H^-1. The merged model's own weight is taken
        for it whatever the anchor is, so that L is computed in full there.
        """
        return self.c.method.target == "experts"

    def _loss(self, problem: LinearProblem, hessian: Tensor, best: Tensor) -> Loss:
        """Return the function that gives L of a weight."""
        return Loss(problem, hessian, best if self._solved else None, self.solvers)

    def _solve_norm(self, path: str) -> None:
        module = self.shipped.student.get_submodule(path)
        offset = module.offset if isinstance(module, RmsNorm) else 0.0
        shifted = f"{path}.bias" in self.merged
        problem = NormProblem.start(
            self._anchor(f"{path}.weight") + offset,
            self._anchor(f"{path}.bias") if shifted else None,
            self.c.method.damping,
        )
        for t in range(len(self.c.tasks)):
            beta = self._target(t, f"{path}.bias") if shifted else None
            problem.add(self._target(t, f"{path}.weight") + offset, beta, self._moments((path,), t))
        gamma, beta = problem.solution(self.shipped.name(path))
        self.shipped.ship(f"{path}.weight", (gamma - offset).float())
        if beta is not None:
            self.shipped.ship(f"{path}.bias", beta.float())

    def _count(self, path: str) -> int:
        return self.shipped.shape(path)[0]

    def _own_rows(self, path: str) -> slice:
        """Return the rows of a linear that this rank solves."""
        return self.solvers.share(self._count(path))

    def _merged_rows(self, path: str) -> Tensor:
        return self.merged[f"{path}.weight"][self._own_rows(path)]

    def _needs_factor(self) -> bool:
        return self.c.method.target == "experts" or self.c.method.rounding != "nearest"

    def _moments(self, step: tuple[str, ...], t: int) -> Moments:
        """Return one task's moments of the input that a step's members share."""
        sums: TaskMoments | None = None
        alpha = self.c.method.alpha
        for student, expert, weights in self.rows.of(step, t):
            target = None if expert is None else alpha * expert + (1 - alpha) * student
            sums = sums or TaskMoments.zeros(student.shape[1], self.c.device)
            sums.add(student, target, weights)
        if sums is None:  # All batches are other ranks'.
            sums = TaskMoments.zeros(self.shipped.shape(step[0])[-1], self.c.device)
        sums.add_up(not self.rows.experts_run, self.c.ranks)
        if not sums.weight:
            for name in map(self.shipped.weight, step):
                self.unreached[name] = self.unreached.get(name, 0) + 1
        place = f"{self.shipped.name(step[0])}, task {self.c.tasks[t].name}"
        return sums.moments(not self.rows.experts_run, place)

    def _anchor(self, path: str) -> Tensor:
        """Return A = W_0 + rho (W_m - W_0), float32."""
        merged = self.merged[path]
        assert self.c.method.rho != "auto"
        if self.c.method.rho == 1.0:
            return merged
        base = self._load(self.c.base, path)
        return base + self.c.method.rho * (merged - base)

    def _target(self, t: int, path: str) -> Tensor:
        """Return the tensor whose outputs a task's targets are, float32."""
        return (
            self.merged[path]
            if self.c.method.target == "merged"
            else self._load(self.c.tasks[t].expert, path)
        )

    def _load(self, source: TensorSource, path: str) -> Tensor:
        return source.load(self.shipped.name(path)).to(self.c.device).to(torch.float32)


def _rows(value: PackedTensor | Tensor, rows: slice) -> PackedTensor | Tensor:
    return value.rows(rows) if isinstance(value, PackedTensor) else value[rows].clone()
