"""The calibration of one block: the streams of hidden states through it, before and after its solve."""

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from epmq_export.calibration.calibrator import BlockResult, Calibrator
from epmq_export.calibration.expert_energies import ExpertEnergies
from epmq_export.calibration.kept_batch import KeptBatch
from epmq_export.calibration.shared import merged_by_all, stored_by_all
from epmq_export.calibration.shipped_block import ShippedBlock
from epmq_export.calibration.step_rows import StepRows
from epmq_export.calibration.step_solver import StepSolver
from epmq_export.calibration.storage import StorageOf
from epmq_export.models.activations import Activations
from epmq_export.models.blocks import inputs_of, load_block, run_block
from epmq_export.models.family import Block
from epmq_export.models.mixture import Mixture, seen_at
from epmq_export.models.replay import Replay
from epmq_export.tensors.packed import PackedTensor, Values
from epmq_export.tensors.source import TensorSource

# What a block ships waits here for the others.
CPU = torch.device("cpu")


class BlockWalk:
    """The calibration of one block. Its steps are solved by `solver`, in their order."""

    def __init__(
        self,
        calibrator: Calibrator,
        storage: StorageOf,
        block: Block,
        batches: list[list[KeptBatch]],
        kept: Activations,
    ) -> None:
        self.c, self.storage, self.block, self.batches, self.kept = calibrator, storage, block, batches, kept
        self.student: nn.Module
        self.replay: Replay
        self.rows: StepRows
        self.shipped: ShippedBlock
        self.solver: StepSolver
        self.energies = ExpertEnergies(block, calibrator.ranks)
        # This is no method, with which `rows` and the walk would keep each other, and the block, in memory.
        self.run = partial(_run, block, self._is_first, batches, kept, calibrator.device)
        # The stream of the experts' own hidden states is only run where a target reads it.
        self.experts_run = calibrator.method.target == "experts" and calibrator.method.alpha > 0

    def load_student(self, rounded: Callable[[str], PackedTensor | Tensor | None]) -> None:
        """Load the merged block. Tensors that no step will solve take their shipped values now, so that
        calibration sees them: those that `rounded` knows, or else the merge's, stored as the layout says.
        """
        self._begin(merged_by_all(self.block, self.c.merged, self.c.ranks))
        self.shipped = ShippedBlock(self.c, self.storage, self.block, self.student)
        # These are kept while the student changes, because a merge is computed anew at each load.
        merged = {
            path: value
            for path, value in self.student.state_dict().items()
            if self.shipped.name(path) not in self.c.family.embeddings
        }
        self.solver = StepSolver(self.c, self.shipped, self.rows, merged)
        solved = {f"{path}.weight" for step in self.block.steps for path in step}
        for path, value in self.student.state_dict().items():
            name = self.shipped.name(path)
            stored = torch.float32 if path in solved else self.shipped.storage(path, tuple(value.shape))
            before = rounded(name)
            self.shipped.ship(
                path, stored_by_all(name, value, stored, self.c.ranks) if before is None else before
            )

    def result(self) -> BlockResult:
        """Return what the steps that were solved have made of the block, on the processor: a whole model of
        codes need not fit a GPU.
        """
        tensors = {name: value.to(CPU) for name, value in self.shipped.tensors.items()}
        return BlockResult(tensors, self.solver.losses, self.shipped.notes, self.solver.unreached)

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

    @property
    def _is_first(self) -> bool:
        return self.block.name == self.c.family.blocks[0].name

    @property
    def _is_last(self) -> bool:
        return self.block.name == self.c.family.blocks[-1].name


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
