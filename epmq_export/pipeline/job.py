"""A job: a recipe with everything that it names opened, which the stages work on."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from epmq_export.calibration.differences import difference
from epmq_export.data.task import Task
from epmq_export.errors import RecipeError
from epmq_export.models.model_set import ModelSet
from epmq_export.pipeline.models import Checkpoints, open_checkpoints, open_models, settings_notes
from epmq_export.pipeline.provenance import provenance
from epmq_export.pipeline.registry import Registry
from epmq_export.pipeline.requirements import formats_of, require_formats, require_pairs_read
from epmq_export.pipeline.tasks import load_tasks, prompt_notes
from epmq_export.pipeline.trial import require_usable
from epmq_export.ranks import ALONE, Ranks
from epmq_export.recipe.recipe import Recipe
from epmq_export.tensors.packed import Packed


@dataclass(frozen=True)
class Job:
    """A recipe, its models and its tasks, opened on a device."""

    recipe: Recipe
    tasks: Sequence[Task]
    checkpoints: Checkpoints
    models: ModelSet
    device: torch.device
    ranks: Ranks = ALONE
    """The processes that share its calibrations."""

    notes: Sequence[str] = ()
    """Sentences on what differs between the models and does not forbid to merge them."""

    @classmethod
    def open(cls, recipe: Recipe, registry: Registry, device: torch.device, ranks: Ranks = ALONE) -> "Job":
        """Read the checkpoints' headers and the tasks' data.

        Raises RecipeError or InputError for what is not as the recipe says.
        """
        recipe = recipe.require_tasks()
        checkpoints = open_checkpoints(recipe, registry.open_gguf, registry.naming_of)
        notes = settings_notes(recipe, checkpoints, registry)
        models = open_models(recipe, checkpoints, registry.open_family)
        require_pairs_read(recipe, models.family)
        tasks = load_tasks(recipe, models.family)
        notes += prompt_notes(recipe, models.family)
        require_formats(recipe, models.family)
        require_usable(models.family, tasks)
        return cls(
            recipe=recipe,
            tasks=tasks,
            checkpoints=checkpoints,
            models=models,
            device=device,
            ranks=ranks,
            notes=notes,
        )

    @property
    def formats(self) -> list[str]:
        """Return the formats that are to be written."""
        return formats_of(self.recipe, self.models.family)

    def provenance(self) -> dict[str, Any]:
        """Return the inputs that decide a calibration of this job. This reads every input to hash it."""
        data = {place: digest for task in self.tasks for place, digest in task.data.items()}
        return provenance(self.recipe, self.checkpoints, data)

    def calibrated(self, directory: Path) -> Packed:
        """Return the packed checkpoint of an earlier run. Raises RecipeError where that run was another
        one.
        """
        packed = Packed(directory)
        if found := difference(packed.index.provenance, json.loads(json.dumps(self.provenance()))):
            raise RecipeError(
                f"{directory} was made with another recipe, other inputs or other versions ({found}): start "
                "again with --overwrite"
            )
        return packed
