"""The stages of a run: calibrate, write, reload and judge. Each stage leaves files that the next one
reads.
"""

from pathlib import Path

from epmq_export import files
from epmq_export.errors import RecipeError
from epmq_export.pipeline.calibrate import calibrate, calibrated_before
from epmq_export.pipeline.export import export
from epmq_export.pipeline.job import Job
from epmq_export.pipeline.progress import Stages
from epmq_export.pipeline.registry import Registry
from epmq_export.pipeline.requirements import require_readable
from epmq_export.pipeline.room import require_room_to_run
from epmq_export.pipeline.targets import PACKED, targets
from epmq_export.pipeline.verify import verify
from epmq_export.publishing.report import COMPARISON, PAGE, REPORT
from epmq_export.tensors.directory import CARD
from epmq_export.verification.verdict import Verdict


def parts(registry: Registry) -> list[str]:
    """Return the names of all that a run may write into its output, and that `overwrite` takes away first."""
    packed = [PACKED, *(f"{PACKED}-{name}" for name in registry.formats)]
    return [*packed, REPORT, PAGE, COMPARISON, CARD, *registry.formats]


def run(registry: Registry, job: Job, output: Path, overwrite: bool, resume: bool, stages: Stages) -> Verdict:
    """Calibrate, write every format and judge the written files. OUTPUT/report.json has all results,
    and OUTPUT/report.html shows them.

    `resume` continues from the finished parts of an interrupted run, to the same bytes. Raises RecipeError
    where something is at `output` that is neither to be replaced nor continued, and MissingRuntime, before
    the work, where a runtime is not installed.
    """
    family = job.models.family
    for name in job.formats:
        for runtime in registry.readers(family, name, job.recipe.verify.clients):
            runtime.version()
    require_readable(job.recipe, family, job.formats)
    if files.taken(output) and not (overwrite or resume):
        raise RecipeError(
            f"{output} exists: give another place, --overwrite, or --resume to go on from an interrupted run"
        )
    _refuse_foreign(registry, output)
    replaced = [output / name for name in parts(registry)] if overwrite and not resume else []
    asked = targets(job.recipe, family, registry.formats, job.formats)
    require_room_to_run(job, output, asked, replaced)
    files.make_directory(output)
    for place in replaced:
        files.discard(place)
    for target in asked:
        place = output / target.directory
        if resume and place.exists():
            packed = calibrated_before(job, place, target)
        else:
            stage = "calibrate" if target.directory == PACKED else f"calibrate for {target.formats[0]}"
            with stages.stage(stage) as update:
                packed = calibrate(job, place, target, resume, update)
        export(registry, packed, output, target.formats, overwrite=True, stages=stages)
    return verify(registry, output, job.formats, job, output / REPORT, stages)


def _refuse_foreign(registry: Registry, output: Path) -> None:
    """Raise RecipeError where a run would replace what none has left, such as the README.md of a project."""
    there = [name for name in parts(registry) if (output / name).exists()]
    if there and not {PACKED, REPORT} & {*there}:
        raise RecipeError(
            f"{output}: found {there[0]} without {PACKED} or {REPORT}, which no run has left and this one "
            "would replace, expected another place"
        )
