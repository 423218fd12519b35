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
from converters import open_family
from converters.from_gguf.checkpoint import GgufBase
from epmq_export.calibration.method import DEFAULT_METHOD, PRESETS, REFINE_STEPS
from epmq_export.data.task import Task
from epmq_export.models import reference
from epmq_export.models.family import Family
from epmq_export.models.format import Format
from epmq_export.models.model_set import ModelSet
from epmq_export.models.runtime import Runtime
from epmq_export.models.samples import Sample
from epmq_export.pipeline.calibrate import calibrate
from epmq_export.pipeline.models import Checkpoints, open_checkpoints, open_sources
from epmq_export.pipeline.provenance import provenance
from epmq_export.pipeline.tasks import load_tasks
from epmq_export.recipe.load import load_recipe
from epmq_export.recipe.recipe import Recipe, RecipeQuantization
from epmq_export.tensors.cached import Kept
from epmq_export.tensors.packed import Packed
from epmq_export.tensors.source import TensorSource, TypedSource
from epmq_export.verification.runtimes.clip_cpp.runtime import ClipCpp
from epmq_export.verification.runtimes.llama_cpp.runtime import LlamaCpp
from epmq_export.verification.runtimes.onnxruntime.runtime import OnnxRuntime
from epmq_export.verification.tasks.bench import Outputs
from formats.gguf.format import Gguf
from formats.onnx.format import OnnxQdq

MERGES: dict[str, tuple[str, dict[str, float]]] = {
    "TA 0.3": ("task_arithmetic", {"lambda": 0.3}),
    "TA 1.0": ("task_arithmetic", {"lambda": 1.0}),
    "TA 2.5": ("task_arithmetic", {"lambda": 2.5}),
    "TIES 1.0": ("ties", {"lambda": 1.0}),
    "TSV-M": ("tsvm", {}),
}
# By name, what the recipe says under `calibration`: the presets, then what the default one can be given
# besides. --samples where it says none.
METHODS: dict[str, dict[str, Any]] = {name: {"method": name} for name in PRESETS} | {
    f"{DEFAULT_METHOD}, tuned": {"method": DEFAULT_METHOD, "tune": True},
    f"{DEFAULT_METHOD}, refined": {"method": DEFAULT_METHOD, "refine": REFINE_STEPS},
    f"{DEFAULT_METHOD}, refined, more texts": {"method": DEFAULT_METHOD, "refine": 600, "samples": 512},
}
CPU = torch.device("cpu")
FORMATS: dict[str, Format] = {each.name: each for each in (Gguf(), OnnxQdq())}
RUNTIMES: dict[str, Runtime] = {each.name: each for each in (LlamaCpp(), ClipCpp(), OnnxRuntime())}


def reader(family: Family, format: str) -> Runtime:
    """Return the runtime that reads a family's files of a format."""
    return RUNTIMES[family.runtimes[format]]


def in_runtime(packed: Packed, format: str, folder: Path) -> Run:
    """Write a packed checkpoint in a format, into a new folder; return what runs the file in its runtime."""
    family = open_family(packed.directory)
    folder.mkdir()
    path = FORMATS[format].write(packed, family, folder)
    return partial(reader(family, format).outputs, path)


@dataclass(frozen=True)
class Experiment:
    """One recipe, opened."""

    recipe: Recipe
    tasks: Sequence[Task]
    checkpoints: Checkpoints
    sources: ModelSet

    @classmethod
    def open(cls, path: Path) -> "Experiment":
        recipe = load_recipe(path)
        checkpoints = open_checkpoints(recipe, GgufBase)
        opened = open_sources(recipe, checkpoints, open_family)
        return cls(recipe, load_tasks(recipe, opened.family.modality), checkpoints, opened)

    @property
    def origin(self) -> dict[str, Any]:
        return provenance(
            self.recipe,
            self.checkpoints,
            {place: each for task in self.tasks for place, each in task.data.items()},
        )

    def outputs(self, source: TensorSource, samples: Sequence[Sample]) -> Outputs:
        return reference.outputs(self.sources.family, source, samples, CPU)

    def calibrate(self, directory: Path, grid: str | None) -> tuple[Packed, dict[str, float]]:
        """The packed checkpoint, unrounded without a grid, and the seconds that it took, by the clock and of
        the processor's.
        """
        origin = self.origin  # hashed before the clock starts
        recipe = self.recipe.model_copy(update={"quantization": RecipeQuantization(grid=grid or "Q4_0")})
        wall, busy = time.monotonic(), time.process_time()
        format = next(iter(self.sources.family.runtimes)) if grid else "safetensors"
        packed = calibrate(
            recipe,
            self.sources,
            self.tasks,
            origin,
            directory,
            CPU,
            False,
            lambda text, done, total: None,
            format,
        )
        return packed, {
            "seconds": round(time.monotonic() - wall, 1),
            "cpu_seconds": round(time.process_time() - busy, 1),
        }


@dataclass(frozen=True)
class Laboratory:
    """Writes the recipes of all experiments into one folder."""

    folder: Path
    base: Path
    experts: Path
    data: Path
    tasks: Sequence[str]
    lines: int
    samples: int
    suite: Suite = TEXT
    merges: dict[str, TypedSource] = field(default_factory=dict)
    """Each is computed once, whatever is measured after it: no row's seconds count it."""

    def experiment(self, merge: str, method: str) -> Experiment:
        rule, parameters = MERGES[merge]
        recipe = {
            "base_model": str(self.base),
            "merge_method": rule,
            "parameters": parameters,
            "tasks": {task: self._task(task) for task in self.tasks},
            "calibration": {"samples": self.samples, **METHODS[method]},
        }
        path = self.folder / "recipe.yaml"
        path.write_text(json.dumps(recipe), encoding="utf-8")  # JSON is YAML
        opened = Experiment.open(path)
        merged = self.merges.setdefault(merge, Kept(opened.sources.merged))
        return replace(opened, sources=replace(opened.sources, merged=merged))

    def _task(self, name: str) -> dict[str, Any]:
        return {
            "expert": str(self.experts / name),
            **self.suite.entry(self.data, self.experts, self.folder, name, self.lines),
        }
