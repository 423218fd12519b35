"""A recipe with everything that it names opened: what the stages work on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch

from epmq_export import sources
from epmq_export.calibration.pack import Progress, calibrate
from epmq_export.errors import RecipeError
from epmq_export.family import Family
from epmq_export.packed import Packed
from epmq_export.recipe import Recipe
from epmq_export.sources import Checkpoints, Sources
from epmq_export.tasks import Task, load_tasks
from epmq_export.verification.verify import Judge


@dataclass(frozen=True)
class Project:
    recipe: Recipe
    tasks: Sequence[Task]
    checkpoints: Checkpoints
    sources: Sources
    device: torch.device

    @classmethod
    def open(cls, recipe: Recipe, open_family: Callable[[Path], Family], device: torch.device) -> "Project":
        """Read the tasks' texts and the checkpoints' headers; RecipeError or InputError for what is not as the recipe says."""
        tasks = load_tasks(recipe)
        checkpoints = sources.open_checkpoints(recipe)
        return cls(recipe, tasks, checkpoints, sources.open_sources(recipe, checkpoints, open_family), device)

    def calibrate(self, directory: Path, resume: bool, progress: Progress, format: str = "gguf") -> Packed:
        """For a format: ONNX cannot hold every grid."""
        progress("hashing the inputs", 0, 0)
        origin = sources.provenance(self.recipe, self.checkpoints)
        return calibrate(self.recipe, self.sources, self.tasks, origin, directory, self.device, resume, progress, format)

    def calibrated(self, directory: Path) -> Packed:
        """What an earlier run has calibrated; RecipeError where that run was another one."""
        packed = Packed(directory)
        origin = sources.provenance(self.recipe, self.checkpoints)
        if any(packed.index.get(key) != value for key, value in origin.items()):
            raise RecipeError(f"{directory} was made with another recipe, other inputs or other versions: start again with --overwrite")
        return packed

    def judge(self, packed: Packed, progress: Callable[[str], None]) -> Judge:
        """The reference's outputs on the tasks, and the scores that written files stand beside."""
        return Judge.build(self.sources, self.tasks, packed, self.recipe.verify, self.device, progress)
