"""The calibration of one block, step by step: statistics, solve, rounding. Each step sees what the steps
before it ship.
"""

import logging
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from epmq_export.calibration.calibrator import BlockResult, Calibrator, LayerLoss
from epmq_export.calibration.descent import descend
from epmq_export.calibration.expert_energies import ExpertEnergies
from epmq_export.calibration.kept_batch import KeptBatch
from epmq_export.calibration.rounding import store
from epmq_export.calibration.shared import joined, merged_by_all, stored_by_all
from epmq_export.calibration.solver import LinearProblem, Loss, NormProblem, inverse_factor
from epmq_export.calibration.statistics import Moments, TaskMoments, accumulate
from epmq_export.calibration.step_rows import StepRows
from epmq_export.calibration.storage import StorageOf
from epmq_export.errors import CalibrationError
from epmq_export.grids import Grid
from epmq_export.grids.layout import Storage, storage_name
from epmq_export.models.activations import Activations
from epmq_export.models.blocks import inputs_of, load_block, run_block
from epmq_export.models.family import Block
from epmq_export.models.mixture import Mixture, seen_at
from epmq_export.models.replay import Replay
from epmq_export.models.rms_norm import RmsNorm
from epmq_export.ranks import ALONE
from epmq_export.tensors.low_rank import LowRank, added_to
from epmq_export.tensors.packed import PackedTensor, Values
from epmq_export.tensors.source import TensorSource

log = logging.getLogger(__name__)


class BlockWalk:
    """The calibration of one block."""

    def __init__(
        self,
        calibrator: Calibrator,
        storage: StorageOf,
        block: Block,
        batches: list[list[KeptBatch]],
        kept: Activations,
    ) -> None:
        self.c, self.storage, self.block, self.batches, self.kept = calibrator, storage, block, batches, kept
        self.tensors: dict[str, PackedTensor | Tensor] = {}
        self.losses: list[LayerLoss] = []
        self.notes: list[str] = []
        self.unreached: dict[str, int] = {}
        self.student: nn.Module
        self.replay: Replay
        self.rows: StepRows
        self.merged: dict[str, Tensor] = {}
        self.energies = ExpertEnergies(block, calibrator.ranks)
        # Each of these solves some rows. Solves that are measured are all done by each rank.
        self.solvers = calibrator.ranks if calibrator.measure is None else ALONE
        # This is no method, with which `rows` and the walk would keep each other, and the block, in memory.
        self.run = partial(_run, block, self._is_first, batches, kept, calibrator.device)
        # The stream of the experts' own hidden states is only run where a target reads it.
        self.experts_run = calibrator.method.target == "experts" and calibrator.method.alpha > 0

    def load_student(self, rounded: Callable[[str], PackedTensor | Tensor | None]) -> None:
        """Load the merged block. Tensors that no step will solve take their shipped values now, so that
        calibration sees them: those that `rounded` knows, or else the merge's, stored as the layout says.
        """
        self._begin(merged_by_all(self.block, self.c.merged, self.c.ranks))
        # These are kept while the student changes, because a merge is computed anew at each load.
        self.merged = {
            path: value
            for path, value in self.student.state_dict().items()
            if self._name(path) not in self.c.family.embeddings
        }
        solved = {f"{path}.weight" for step in self.block.steps for path in step}
        for path, value in self.student.state_dict().items():
            name, shape = self._name(path), tuple(value.shape)
            stored = torch.float32 if path in solved else self._noted(*self.storage(name, shape))
            before = rounded(name)
            self._ship(path, stored_by_all(name, value, stored, self.c.ranks) if before is None else before)

    def restore_student(self, result: BlockResult) -> None:
        """Load the block that an interrupted run has finished."""
        self._begin(Values(result.tensors))

    def _begin(self, source: TensorSource) -> None:
        self.student = load_block(self.block, source, self.c.device)
        self.replay = Replay(self.kept, self.block, self.student, self.c.device)
        self.rows = StepRows(
            block=self.block,
            student=self.student,
            run=self.run,
            replay=self.replay,
            kept=self.kept,
            batches=self.batches,
            sources=[task.expert for task in self.c.tasks],
            energies=self.energies,
            experts_run=self.experts_run,
        )
        self.first = [*dict.fromkeys(seen_at(self.student, step[0]) for step in self.block.steps)]

    def run_experts(self) -> None:
        """Compute each expert's own hidden states through this block, and keep the inputs of its linears and
        norms.
        """
        if not self.experts_run:
            return
        first = self.first
        if not first and self._is_last:
            return
        # Nothing reads what the last block gives out. Linears have to run, since their outputs are measured.
        stop = self._is_last and not isinstance(self.student.get_submodule(first[-1]), nn.Linear)
        for t, task in enumerate(self.c.tasks):
            if not self.batches[t]:
                continue  # They are other ranks'.
            module = load_block(self.block, task.expert, self.c.device)
            for b in range(len(self.batches[t])):
                run = partial(self.run, module, "expert", t, b)
                with self.energies.of(module, t, self.batches[t][b].get()):
                    seen, result = inputs_of(module, first, run, stop=stop)
                for path, value in zip(first, seen, strict=True):
                    # All steps of a mixture read one, and each would compute it again.
                    mixed = isinstance(module.get_submodule(path), Mixture)
                    (self.kept.put if mixed else self.kept.offer)(("input", path, t, b), value)
                if result is not None:
                    self.kept.put(("next", t, b), result)

    def advance(self) -> None:
        """Carry the student's hidden states through the finished block."""
        for t, batches in enumerate(self.batches):
            for b in range(len(batches)):
                with self.replay.before(len(self.block.steps), t, b):
                    result = self.run(self.student, "student", t, b)
                self.replay.drop(t, b)
                self.kept.put(("student", t, b), result)
                if self.experts_run:
                    self.kept.move(("next", t, b), ("expert", t, b))
                self.rows.drop(t, b)
                for path in self.first:
                    self.kept.drop(("input", path, t, b))
                if self._is_first:
                    batches[b].narrow(self.c.family.later)

    def solve(self, step: tuple[str, ...]) -> None:
        """Solve and round the linears or the norm of a step."""
        if isinstance(self.student.get_submodule(step[0]), nn.LayerNorm | RmsNorm):
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
        factor = inverse_factor(hessian, self._name(step[0])) if self._needs_factor() else None
        together: dict[Storage, dict[str, Tensor]] = {}
        for path, problem in problems.items():
            best = self._best(path, problem, factor)
            name = self._weight(path)
            if self.c.measure is not None:
                self.c.measure(name, best, factor, self._loss(problem, hessian, best))
            shape = tuple(self.student.get_parameter(f"{path}.weight").shape)
            together.setdefault(self._noted(*self.storage(name, shape)), {})[path] = best
        for storage, wanted in together.items():
            self._round(storage, wanted, problems, hessian, factor)

    def _add_tasks(self, step: tuple[str, ...], problems: dict[str, LinearProblem]) -> Tensor:
        """Add all tasks to the problems of a step; return H, float64 [in, in].

        What all experts share, as those that are adapters on the base do, is multiplied with the sum of the
        tasks' moments, once, and only what each adds to it with its own.
        """
        width = self.student.get_parameter(f"{step[0]}.weight").shape[1]
        hessian = self.c.method.damping * torch.eye(width, dtype=torch.float64, device=self.c.device)
        alpha = self.c.method.alpha if self.experts_run else 0.0
        shared, cross = self._shared(step), None
        for t in range(len(self.c.tasks)):
            moments = self._moments(step, t)
            accumulate(hessian, moments.student, moments.share)
            for path, problem in problems.items():
                rows = self._own_rows(path)
                bias = None if problem.anchor_bias is None else self._target(t, f"{path}.bias")[rows]
                own = self.energies.mean(path, t) * moments.scale if self.experts_run else 0.0
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
            name = self._weight(path)
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
                f"{self._weight(path)}: its solution is not finite; look for NaN or Inf in the checkpoints"
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
        value = first = store(" and ".join(map(self._weight, wanted)), best, storage, greedy, rises[0])
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
                loss(_plain(_rows(weight, rows)))
                if rise is None or not self._solved
                else loss.above(float(rise[rows].sum(dtype=torch.float64)))
                for weight, rise in zip((first, value), rises, strict=True)
            )
            merged = loss(self._merged_rows(path))
            self.losses.append(
                LayerLoss(self._weight(path), storage_name(storage), merged, loss(each), rounded, after)
            )
            self._ship(f"{path}.weight", joined(shipped, count, self.solvers))
            if problem.anchor_bias is not None and self.c.method.affine == "solved":
                bias = problem.bias(_plain(shipped)).float()
                self._ship(f"{path}.bias", self.solvers.joined(bias, count))

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
        module = self.student.get_submodule(path)
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
        gamma, beta = problem.solution(self._name(path))
        self._ship(f"{path}.weight", (gamma - offset).float())
        if beta is not None:
            self._ship(f"{path}.bias", beta.float())

    def _count(self, path: str) -> int:
        return len(self.student.get_parameter(f"{path}.weight"))

    def _own_rows(self, path: str) -> slice:
        """Return the rows of a linear that this rank solves."""
        return self.solvers.share(self._count(path))

    def _merged_rows(self, path: str) -> Tensor:
        return self.merged[f"{path}.weight"][self._own_rows(path)]

    def _name(self, path: str) -> str:
        return f"{self.block.prefix}{path}"

    def _weight(self, path: str) -> str:
        return self._name(f"{path}.weight")

    def _noted(self, storage: Storage, note: str | None) -> Storage:
        """Return the storage. Keep the note about it, and log it once for each kind."""
        if note is not None:
            kind = note.partition(" ")[2]
            # A calibration with `measure` is a rehearsal, whose layout is not the one that ships.
            if self.c.measure is None and kind not in self.c.told:
                self.c.told.add(kind)
                log.warning("%s (said once: the report has every tensor)", note)
            self.notes.append(note)
        return storage

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
            sums = TaskMoments.zeros(self.student.get_parameter(f"{step[0]}.weight").shape[-1], self.c.device)
        sums.add_up(not self.experts_run, self.c.ranks)
        if not sums.weight:
            for path in step:
                self.unreached[self._weight(path)] = self.unreached.get(self._weight(path), 0) + 1
        return sums.moments(not self.experts_run, f"{self._name(step[0])}, task {self.c.tasks[t].name}")

    @property
    def _is_first(self) -> bool:
        return self.block.name == self.c.family.blocks[0].name

    @property
    def _is_last(self) -> bool:
        return self.block.name == self.c.family.blocks[-1].name

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
        return source.load(self._name(path)).to(self.c.device).to(torch.float32)

    def _ship(self, path: str, value: PackedTensor | Tensor) -> None:
        """Keep a tensor as the file will hold it, and let the student compute with it from now on."""
        name = self._name(path)
        module = self.student.get_submodule(path.rpartition(".")[0])
        if isinstance(module, RmsNorm) and isinstance(value, Tensor):
            value = module.whole(value)
        if not isinstance(value, PackedTensor) and not bool(torch.isfinite(value).all()):
            raise CalibrationError(
                f"{name}: its values are not finite as {value.dtype}; look for NaN, Inf or overflow in "
                "the checkpoints"
            )
        self.tensors[name] = value
        self.student.get_parameter(path).data = _plain(value).to(self.c.device, torch.float32)


def _run(
    block: Block,
    first: bool,
    batches: list[list[KeptBatch]],
    kept: Activations,
    device: torch.device,
    module: nn.Module,
    stream: str,
    t: int,
    b: int,
) -> Tensor:
    """Return a stream's next hidden state for one batch."""
    hidden = None if first else kept.get((stream, t, b))
    return run_block(block, module, hidden, batches[t][b].get(), device)


def _rows(value: PackedTensor | Tensor, rows: slice) -> PackedTensor | Tensor:
    return value.rows(rows) if isinstance(value, PackedTensor) else value[rows].clone()


def _plain(value: PackedTensor | Tensor) -> Tensor:
    return value.dequantise() if isinstance(value, PackedTensor) else value
