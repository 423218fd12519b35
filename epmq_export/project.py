"""A recipe with everything that it names opened: what the stages work on."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from epmq_export import sources
from epmq_export.calibration.pack import Progress, calibrate
from epmq_export.data.task import Task
from epmq_export.errors import RecipeError
from epmq_export.grids import GRIDS
from epmq_export.models.family import Family
from epmq_export.models.model_set import ModelSet
from epmq_export.pipeline.tasks import load_tasks
from epmq_export.recipe.recipe import Recipe
from epmq_export.sources import Checkpoints
from epmq_export.tensors.checkpoint import OpenGguf
from epmq_export.tensors.packed import Packed
from epmq_export.verification.tasks.language import require_answerable
from epmq_export.verification.verify import Judge


@dataclass(frozen=True)
class Project:
    recipe: Recipe
    tasks: Sequence[Task]
    checkpoints: Checkpoints
    sources: ModelSet
    device: torch.device

    @classmethod
    def open(
        cls, recipe: Recipe, open_family: Callable[[Path], Family], open_gguf: OpenGguf, device: torch.device
    ) -> "Project":
        """Read the checkpoints' headers and the tasks' data; RecipeError or InputError for what is not as the
        recipe says.
        """
        checkpoints = sources.open_checkpoints(recipe, open_gguf)
        opened = sources.open_sources(recipe, checkpoints, open_family)
        project = cls(recipe, load_tasks(recipe, opened.family.modality), checkpoints, opened, device)
        require_formats(recipe, opened.family)
        require_answerable(opened.family, project.tasks)
        return project

    @property
    def formats(self) -> list[str]:
        """What is to be written: what the recipe says, or all that the family can be written in."""
        return self.recipe.export.formats or [*self.sources.family.runtimes]

    def _provenance(self) -> dict[str, Any]:
        return sources.provenance(
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


def require_formats(recipe: Recipe, family: Family) -> None:
    """RecipeError for a format that the family cannot be written in, and for a task that it has no way to be
    scored on.
    """
    if lacking := [name for name in recipe.export.formats or () if name not in family.runtimes]:
        raise recipe.mistake(
            ("export", "formats"),
            (
                f"found {lacking[0]}, which family {family.name} cannot be written in, expected "
                f"{', '.join(family.runtimes)}"
            ),
        )
    if recipe.export.split_size is not None:
        if "gguf" not in (recipe.export.formats or family.runtimes):
            raise recipe.mistake(
                ("export", "split_size"), "found it set, expected the key left out: no GGUF file is written"
            )
        if family.runtimes["gguf"] != "llama.cpp":
            raise recipe.mistake(
                ("export", "split_size"),
                (
                    f"found it set, expected the key left out: {family.runtimes['gguf']} reads a model "
                    "in one "
                    "file only"
                ),
            )
    language = family.modality == "language"
    for name, task in recipe.tasks.items():
        if family.modality == "image" and task.prompt != "{}":
            raise recipe.mistake(
                ("tasks", name, "prompt"),
                f"found it set, expected the key left out: family {family.name} reads images",
            )
        if language and (key := "head" if task.head is not None else "templates" if task.templates else None):
            raise recipe.mistake(
                ("tasks", name, key),
                f"found it set, expected prompt and labels: family {family.name} is asked in words",
            )
        if (
            not language
            and family.text_tower is None
            and (task.labels or task.templates)
            and task.head is None
        ):
            raise recipe.mistake(
                ("tasks", name, "head"),
                f"found nothing, expected a linear head: family {family.name} embeds no label texts",
            )


def require_readable(recipe: Recipe, family: Family) -> None:
    """RecipeError where the recipe asks for a grid that the runtime of the family's GGUF files cannot decode,
    InputError where that runtime cannot read the model at all: what is sure to fail fails before the work.
    """
    if "gguf" not in (recipe.export.formats or family.runtimes) or (known := family.gguf().grids) is None:
        return
    quantization = recipe.quantization
    asked: dict[tuple[str, ...], str] = {
        ("grid",): quantization.grid,
        ("embeddings",): quantization.embeddings,
    }
    asked |= {("overrides", pattern): storage for pattern, storage in quantization.overrides.items()}
    for key, name in asked.items():
        if name in GRIDS and GRIDS[name].file_type not in known:
            expected = ", ".join(each for each, grid in GRIDS.items() if grid.file_type in known)
            runtime = family.runtimes["gguf"]
            raise recipe.mistake(
                ("quantization", *key),
                (
                    f"found {name}, which {runtime} cannot read in GGUF, expected one of {expected}, or "
                    "export.formats without gguf"
                ),
            )
