"""One process of a calibration, with the processor's seconds of each stage: torchrun starts several for
`benchmarks.speed.ranks`.

    python -m benchmarks.speed.ranks_worker RECIPE FOLDER
"""

import functools
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

import epmq_export as epmq
from benchmarks.tables import write_json
from epmq_export.calibration import block_walk, calibrate, step_solver
from epmq_export.calibration.block_walk import BlockWalk
from epmq_export.calibration.calibrator import Calibrator
from epmq_export.calibration.step_solver import StepSolver
from epmq_export.installed import registry
from epmq_export.models.family import Batch
from epmq_export.models.precision import whole_float32
from epmq_export.pipeline.calibrate import calibrator_of
from epmq_export.pipeline.job import Job
from epmq_export.pipeline.take_part import take_part
from epmq_export.pipeline.targets import targets
from epmq_export.ranks import Ranks, met
from epmq_export.tensors.packed import PackedTensor

CPU = torch.device("cpu")
MERGING, EMBEDDINGS = "merging and loading", "rounding of embeddings"
NEXT, REST = "the student's next states", "all else"
# Each stage with the functions that do it. What one of another stage does within them is that one's.
STAGES: dict[str, Sequence[tuple[Any, str]]] = {
    MERGING: [(BlockWalk, "load_student")],
    EMBEDDINGS: [(block_walk, "stored_by_all")],
    "experts": [(BlockWalk, "run_experts")],
    "statistics": [(StepSolver, "_moments")],
    "problems": [(StepSolver, "_add_tasks")],
    "factors": [(step_solver, "inverse_factor")],
    "solutions": [(StepSolver, "_best")],
    "GPTQ": [(step_solver, "store")],
    "descent": [(step_solver, "descend")],
    "losses": [(StepSolver, "_round")],
    NEXT: [(BlockWalk, "advance")],
    "exchange": [(Ranks, name) for name in ("same", "dealt", "add_up", "total", "joined", "send")],
}


class Clock:
    """The processor's seconds of this process by stage. At each time one stage alone runs."""

    def __init__(self, now: Callable[[], float] = time.process_time) -> None:
        self._now = now
        self.begin()

    def begin(self) -> None:
        """Forget what was counted."""
        self.seconds = dict.fromkeys((*STAGES, REST), 0.0)
        self._running, self._since = [REST], self._now()

    def watch(self, stage: str, owner: Any, name: str) -> None:  # noqa: ANN401 - a module or a class
        """Count a function's time as a stage's from now on."""
        function: Callable[..., Any] = getattr(owner, name)

        @functools.wraps(function)
        def watched(*given: Any, **named: Any) -> Any:  # noqa: ANN401
            self._count()
            self._running.append(stage)
            try:
                return function(*given, **named)
            finally:
                self._count()
                self._running.pop()

        setattr(owner, name, watched)

    def _count(self) -> None:
        now = self._now()
        self.seconds[self._running[-1]] += now - self._since
        self._since = now


def main(arguments: Sequence[str]) -> None:
    """Calibrate, and write what this rank's stages took into the folder."""
    recipe, folder = epmq.load_recipe(arguments[0]), Path(arguments[1])
    clock = Clock()
    with met() as ranks:
        walk: Any = calibrate
        opened = walk.begun

        def begun(calibrator: Calibrator) -> Sequence[Sequence[Batch]]:
            clock.begin()  # What came before is no stage's: imports, and the opening of models.
            dealt: Sequence[Sequence[Batch]] = opened(calibrator)
            return dealt

        walk.begun = begun
        for stage, functions in STAGES.items():
            for owner, name in functions:
                clock.watch(stage, owner, name)
        if ranks.index > 0:
            take_part(recipe, registry(), CPU, ranks)
        else:
            _lead(Job.open(recipe, registry(), CPU, ranks), folder)
        write_json(folder / f"{ranks.index}.json", clock.seconds)


@whole_float32()
def _lead(job: Job, folder: Path) -> None:
    """Do what rank 0 does, and write the codes and the losses."""
    target, *_ = targets(job.recipe, job.models.family, registry().formats, job.formats)
    calibrator = calibrator_of(job, target, lambda text, done, total: None, [])
    results = [result for _, result in calibrate.calibrate_blocks(calibrator)]
    tensors = {name: value for result in results for name, value in result.tensors.items()}
    codes = {name: value.codes for name, value in tensors.items() if isinstance(value, PackedTensor)}
    save_file(codes, folder / "codes.safetensors")
    write_json(folder / "losses.json", [loss.loss_after for result in results for loss in result.losses])


if __name__ == "__main__":
    main(sys.argv[1:])
