"""The search for rho, alpha and lambda without labels: the model is calibrated on most of the samples and
compared with the experts on the rest, and so is the merge itself.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch

from epmq_export.calibration.calibrate import calibrate_blocks
from epmq_export.calibration.calibrator import Calibrator
from epmq_export.calibration.divergence import divergence
from epmq_export.calibration.method import PRESETS, Method
from epmq_export.errors import CalibrationError
from epmq_export.files.scratch import Scratch
from epmq_export.grids.layout import FULL
from epmq_export.models import reference
from epmq_export.tensors.packed import flatten
from epmq_export.tensors.safetensors_file import SafetensorsFile, write_safetensors
from epmq_export.tensors.source import Joined, TensorSource, TypedSource

# One sample in HELD_OUT is held out.
HELD_OUT = 4
# The factors by which each number in turn is raised and lowered. A direction that helps is followed. The
# factor of alpha acts on its odds, so that alpha stays within 0..1.
FACTORS = {"rho": 2**0.5, "damping": 2.0, "alpha": 2.0}
# A fall of the divergence by less than the share LEAST is noise. A divergence below NOISE is one that float32
# cannot tell from 0.
LEAST, NOISE = 0.01, 1e-6


@dataclass(frozen=True)
class Trial:
    """One setting of the numbers, and how well it did."""

    target: Literal["merged", "experts"]
    """The method's target. "merged" is the trial of the merge itself."""

    alpha: float
    rho: float
    damping: float
    divergence: float
    """The divergence from the experts on the held-out samples: the mean over the tasks, each as a share of
    the first trial's.
    """


@dataclass(frozen=True)
class Tuned:
    """The best method that the search found, and all its trials."""

    method: Method
    trials: Sequence[Trial]


def tune(calibrator: Calibrator, progress: Callable[[str], None] = lambda text: None) -> Tuned:
    """Return the numbers of the calibrator's method that serve its experts best on held-out samples. They are
    searched one after the other, from the method's own values on.

    Where the merge itself serves them better than every trial, the method that is returned reproduces it as
    `gptq` does, rounded as the calibrator's own method rounds. Nothing is rounded in the search: 4 bits cost
    far less than a wrong anchor. Raises CalibrationError where a task has too few samples.
    """
    search = _Search(calibrator, progress)
    for key in FACTORS:
        if not (search.try_next(key, FACTORS[key]) or search.try_next(key, 1 / FACTORS[key])):
            continue
        while search.try_next(key, search.last_factor):
            pass
    search.try_merge()
    return Tuned(search.best, search.trials)


class _Search:
    """The state of the search: the samples in two parts, the experts' outputs, and the best method so far."""

    def __init__(self, calibrator: Calibrator, progress: Callable[[str], None]) -> None:
        for task in calibrator.tasks:
            if len(task.samples) < HELD_OUT:
                raise CalibrationError(
                    f"task {task.name}: tune holds out one sample in {HELD_OUT} and found "
                    f"{len(task.samples)}; raise calibration.samples"
                )
        self._calibrator, self._progress = calibrator, progress
        self._held = [
            [sample for i, sample in enumerate(task.samples) if i % HELD_OUT == HELD_OUT - 1]
            for task in calibrator.tasks
        ]
        self._fitted = [
            replace(
                task,
                samples=[sample for i, sample in enumerate(task.samples) if i % HELD_OUT != HELD_OUT - 1],
            )
            for task in calibrator.tasks
        ]
        self._wanted = [
            torch.from_numpy(reference.outputs(calibrator.family, task.expert, held, calibrator.device))
            for task, held in zip(calibrator.tasks, self._held, strict=True)
        ]
        self.best = calibrator.method
        self._first = self._divergences(self.best)
        self.trials = [self._trial(self.best, 1.0)]
        self._least = 1.0
        self.last_factor = 1.0

    def try_next(self, key: str, factor: float) -> bool:
        """Try the best method so far with one number moved. Return whether it is better; then it is the best
        one.
        """
        self.last_factor = factor
        value = getattr(self.best, key)
        moved = value * factor if key != "alpha" else value * factor / (1 - value + value * factor)
        if moved == value:  # The value is 0, or an alpha of 1.
            return False
        method = replace(self.best, **{key: moved})
        return self._is_best(method, self._divergences(method))

    def try_merge(self) -> None:
        """Try the merge as it is, which costs no calibration."""
        method = replace(PRESETS["gptq"], rounding=self.best.rounding)
        self._progress("tune: the merge itself")
        self._is_best(method, self._divergences_of(self._calibrator.merged))

    def _is_best(self, method: Method, divergences: Sequence[float]) -> bool:
        """Note a trial. Return whether it is the best one so far."""
        shares = [
            now / first if first > NOISE else 1.0 for now, first in zip(divergences, self._first, strict=True)
        ]
        found = sum(shares) / len(shares)
        self.trials.append(self._trial(method, found))
        better = found < self._least * (1 - LEAST)
        if better:
            self.best, self._least = method, found
        return better

    def _divergences(self, method: Method) -> list[float]:
        """Return the divergence of each task on its held-out samples."""
        self._progress(f"tune: alpha {method.alpha:.2f}, rho {method.rho:.2f}, lambda {method.damping:.3f}")
        calibrator = self._calibrator
        solved = replace(
            calibrator,
            tasks=self._fitted,
            method=method,
            layout=FULL,
            progress=lambda text, done, total: None,
        )
        with Scratch("tune") as folder:
            parts: list[TypedSource] = []
            for number, (_, result) in enumerate(calibrate_blocks(solved)):
                path = folder / f"{number}.safetensors"
                write_safetensors(path, flatten(result.tensors)[0])
                parts.append(SafetensorsFile(path))
            return self._divergences_of(Joined(parts))

    def _divergences_of(self, source: TensorSource) -> list[float]:
        """Return the divergence of a model on each task's held-out samples."""
        calibrator = self._calibrator
        outputs = torch.from_numpy(
            reference.outputs(
                calibrator.family,
                source,
                [sample for held in self._held for sample in held],
                calibrator.device,
            )
        )
        found, start = [], 0
        for wanted, task in zip(self._wanted, calibrator.tasks, strict=True):
            found.append(float(divergence(outputs[start : start + len(wanted)], wanted, task.head).mean()))
            start += len(wanted)
        return found

    def _trial(self, method: Method, found: float) -> Trial:
        assert method.rho != "auto"
        return Trial(
            target=method.target,
            alpha=method.alpha,
            rho=method.rho,
            damping=method.damping,
            divergence=found,
        )
