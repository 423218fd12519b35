"""Recipes of merges and methods over tasks, opened and run."""

import json
import time
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from benchmarks.accuracy.suites import TEXT, Suite
from benchmarks.peers import Run
from epmq_export.calibration.method import DEFAULT_METHOD, PRESETS
from epmq_export.calibration.refinement import WHOLE
from epmq_export.installed import registry
from epmq_export.models import reference
from epmq_export.pipeline.calibrate import calibrate
from epmq_export.pipeline.job import Job
from epmq_export.pipeline.targets import targets
from epmq_export.recipe.load import load_recipe
from epmq_export.recipe.recipe import EFFORTS, RecipeQuantization
from epmq_export.tensors.cached import Kept
from epmq_export.tensors.packed import Packed
from epmq_export.tensors.source import TensorSource, TypedSource

MERGES: dict[str, tuple[str, dict[str, float]]] = {
    "TA 0.3": ("task_arithmetic", {"lambda": 0.3}),
    "TA 1.0": ("task_arithmetic", {"lambda": 1.0}),
    "TA 2.5": ("task_arithmetic", {"lambda": 2.5}),
    "TIES 1.0": ("ties", {"lambda": 1.0}),
    "TSV-M": ("tsvm", {}),
}
# By name, what the recipe says under `calibration`: the presets, then what the default one can be given
# besides. --samples where it says none, and no `refine`.
METHODS: dict[str, dict[str, Any]] = {name: {"method": name} for name in PRESETS} | {
    f"{DEFAULT_METHOD}, tuned": {"method": DEFAULT_METHOD, "tune": True},
    f"{DEFAULT_METHOD}, biases and norms": {"method": DEFAULT_METHOD, "refine": "affine"},
    f"{DEFAULT_METHOD}, refined": {"method": DEFAULT_METHOD, "refine": WHOLE.steps},
    f"{DEFAULT_METHOD}, refined, more texts": {"method": DEFAULT_METHOD, "refine": 600, "samples": 512},
    f"{DEFAULT_METHOD}, best effort": {"method": DEFAULT_METHOD, **EFFORTS["best"]},
}
CPU = torch.device("cpu")


def by_reference(job: Job, source: TensorSource) -> Run:
    """Return what runs weights in PyTorch on the job's device, as its family computes."""
    return partial(reference.outputs, job.models.family, source, device=job.device)


def in_runtime(packed: Packed, format: str, folder: Path) -> Run:
    """Write a packed checkpoint in a format, into a new folder; return what runs the file in its runtime, as
    its users read it.
    """
    family = registry().open_family(packed.directory)
    folder.mkdir()
    path = registry().formats[format].write(packed, family, folder)
    run = partial(registry().readers(family, format)[0].outputs, path)
    return family.exports[format].as_read(run, path)


@dataclass(frozen=True, kw_only=True)
class _Hashed(Job):
    """A job whose inputs are hashed already, so that no row's seconds count it."""

    known: dict[str, Any]

    def provenance(self) -> dict[str, Any]:
        return self.known


def calibrated(job: Job, directory: Path, grid: str | None) -> tuple[Packed, dict[str, float]]:
    """Calibrate onto a grid, or without one in full precision, as the family's first format takes it.

    Return the packed checkpoint, and the seconds that it took, by the clock and of the processor's: without
    those of the merge and of hashing the inputs.
    """
    # The committed rows were measured when embeddings were F16 by default.
    storage = RecipeQuantization(grid=grid or "Q4_0", embeddings="F16")
    recipe = job.recipe.model_copy(update={"quantization": storage})
    first = job.formats[:1]
    (target,) = targets(recipe, job.models.family, registry().formats, first) if grid else [None]
    job = replace(job, recipe=recipe)
    hashed = _Hashed(**vars(job), known=job.provenance())
    wall, busy = time.monotonic(), time.process_time()
    packed = calibrate(hashed, directory, target, False, lambda text, done, total: None)
    return packed, {
        "seconds": round(time.monotonic() - wall, 1),
        "cpu_seconds": round(time.process_time() - busy, 1),
    }


@dataclass(frozen=True)
class Laboratory:
    """Opens recipes of merges and methods over some tasks; they are written into one folder."""

    folder: Path
    base: Path
    experts: Path
    data: Path
    tasks: Sequence[str]
    lines: int
    samples: int
    suite: Suite = TEXT
    device: torch.device = CPU
    """Where what is calibrated and what PyTorch runs is computed."""

    merges: dict[str, TypedSource] = field(default_factory=dict)
    """Merged models, each computed once, whatever is measured after it: no row's seconds count it."""

    def experiment(self, merge: str, method: str) -> Job:
        """Return the opened recipe of a merge and a method, by their names in MERGES and METHODS."""
        rule, parameters = MERGES[merge]
        recipe = {
            "base_model": str(self.base),
            "merge_method": rule,
            "parameters": parameters,
            "tasks": {task: self._task(task) for task in self.tasks},
            "calibration": {"samples": self.samples, "refine": False, **METHODS[method]},
        }
        path = self.folder / "recipe.yaml"
        path.write_text(json.dumps(recipe), encoding="utf-8")  # JSON is YAML
        opened = Job.open(load_recipe(path), registry(), self.device)
        merged = self.merges.setdefault(merge, Kept(opened.models.merged))
        return replace(opened, models=replace(opened.models, merged=merged))

    def _task(self, name: str) -> dict[str, Any]:
        return {
            "expert": str(self.experts / name),
            **self.suite.entry(self.data, self.experts, self.folder, name, self.lines),
        }
