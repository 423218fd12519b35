"""A recipe with everything that it names opened: what the stages work on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from epmq_export.data.task import Task
from epmq_export.errors import RecipeError
from epmq_export.models.family import Family
from epmq_export.models.model_set import ModelSet
from epmq_export.pipeline.calibrate import Progress, calibrate
from epmq_export.pipeline.models import Checkpoints, open_checkpoints, open_sources
from epmq_export.pipeline.provenance import provenance
from epmq_export.pipeline.requirements import require_answerable, require_formats
from epmq_export.pipeline.tasks import load_tasks
from epmq_export.recipe.recipe import Recipe
from epmq_export.tensors.checkpoint import OpenGguf
from epmq_export.tensors.packed import Packed
from epmq_export.verification.verify import Judge


@dataclass(frozen=True)
class Job:
    recipe: Recipe
    tasks: Sequence[Task]
    checkpoints: Checkpoints
    sources: ModelSet
    device: torch.device

    @classmethod
    def open(
        cls, recipe: Recipe, open_family: Callable[[Path], Family], open_gguf: OpenGguf, device: torch.device
    ) -> "Job":
        """Read the checkpoints' headers and the tasks' data; RecipeError or InputError for what is not as the
        recipe says.
        """
        checkpoints = open_checkpoints(recipe, open_gguf)
        opened = open_sources(recipe, checkpoints, open_family)
        project = cls(recipe, load_tasks(recipe, opened.family.modality), checkpoints, opened, device)
        require_formats(recipe, opened.family)
        require_answerable(opened.family, project.tasks)
        return project

    @property
    def formats(self) -> list[str]:
        """What is to be written: what the recipe says, or all that the family can be written in."""
        return self.recipe.export.formats or [*self.sources.family.runtimes]

    def _provenance(self) -> dict[str, Any]:
        return provenance(
            self.recipe,
            self.checkpoints,
            {place: each for task in self.tasks for place, each in task.data.items()},
        )

    def calibrate(self, directory: Path, resume: bool, progress: Progress, format: str = "gguf") -> Packed:
        """For a format: ONNX cannot hold every grid."""
        progress("hashing the inputs", 0, 0)
        origin = self._provenance()
        return calibrate(
            self.recipe, self.sources, self.tasks, origin, directory, self.device, resume, progress, format
        )

    def calibrated(self, directory: Path) -> Packed:
        """What an earlier run has calibrated; RecipeError where that run was another one."""
        packed = Packed(directory)
        origin = self._provenance()
        if any(packed.index.get(key) != value for key, value in origin.items()):
            raise RecipeError(
                f"{directory} was made with another recipe, other inputs or other versions: start again "
                "with --overwrite"
            )
        return packed

    def judge(self, packed: Packed, progress: Callable[[str], None]) -> Judge:
        """The reference's outputs on the tasks, and the scores that written files stand beside."""
        return Judge.build(self.sources, self.tasks, packed, self.recipe.verify, self.device, progress)
