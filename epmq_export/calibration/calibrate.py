"""Calibration block by block, each on the hidden states that the blocks before it ship."""

from collections.abc import Callable, Iterator

from torch import Tensor

from epmq_export.calibration.block_walk import BlockWalk
from epmq_export.calibration.calibrator import BlockResult, Calibrator
from epmq_export.calibration.kept_batch import KeptBatch
from epmq_export.calibration.shared import begun
from epmq_export.calibration.storage import storage_of
from epmq_export.models.activations import Activations, room_on
from epmq_export.models.family import Block
from epmq_export.models.heap import give_back
from epmq_export.tensors.packed import PackedTensor


def calibrate_blocks(
    calibrator: Calibrator, finished: Callable[[str], BlockResult | None] = lambda block: None
) -> Iterator[tuple[Block, BlockResult]]:
    """Yield each block with the tensors that it ships, in the family's order.

    `finished` gives the result of a block that an interrupted run has done, or that the caller has kept since
    it was yielded, by the block's name, or None.
    Raises CalibrationError where a number is not finite or a system is singular: there is no fallback.
    """
    blocks = calibrator.family.blocks
    storage = storage_of(calibrator.family, calibrator.layout)
    total, done = sum(len(block.steps) for block in blocks), 0
    home: dict[str, str] = {}

    def rounded(name: str) -> PackedTensor | Tensor | None:
        """Return what an earlier block has shipped of embeddings that are also the head, if it was kept."""
        if name not in home:
            return None
        before = finished(home[name])
        return calibrator.ranks.same(None if before is None else before.tensors[name])

    ranks = calibrator.ranks
    with Activations(calibrator.activation_bytes // ranks.beside, room_on(calibrator.device)) as kept:
        batches = [
            [KeptBatch(kept, ("batch", t, b), batch) for b, batch in enumerate(each)]
            for t, each in enumerate(begun(calibrator))
        ]
        for block in blocks:
            walk = BlockWalk(calibrator, storage, block, batches, kept)
            result = ranks.same(finished(block.name))
            if result is None:
                walk.load_student(rounded)
                walk.run_experts()
                for step in block.steps:
                    calibrator.progress(f"{block.prefix}{step[0]}", done, total)
                    give_back()
                    walk.solver.solve(step)
                    done += 1
                result = walk.result()
            else:
                walk.restore_student(result)
                walk.run_experts()
                done += len(block.steps)
            home |= {name: block.name for name in calibrator.family.embeddings if name in result.tensors}
            yield block, result
            if block is not blocks[-1]:  # Nothing reads what the last one gives out.
                walk.advance()
    calibrator.progress("calibrated", total, total)
