"""The stage `calibrate`: it turns an opened job into a packed checkpoint on disk."""

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from epmq_export import files
from epmq_export.calibration.anchor import with_length
from epmq_export.calibration.budget import fewest_bits, with_budget, within_size
from epmq_export.calibration.calibrate import calibrate_blocks
from epmq_export.calibration.calibrator import Calibrator, LayerLoss, TaskData
from epmq_export.calibration.method import Method
from epmq_export.calibration.refine import Refined, refine, require_samples
from epmq_export.calibration.refinement import Refinement
from epmq_export.calibration.resume import FinishedBlocks, StoredBlocks
from epmq_export.calibration.storage import storage_of
from epmq_export.calibration.task_vectors import TaskVectors
from epmq_export.calibration.tune import tune
from epmq_export.calibration.uncalibrated import rest
from epmq_export.data.task import Task
from epmq_export.errors import InputError, RecipeError
from epmq_export.grids import GRIDS, Grid
from epmq_export.grids.layout import FULL, Layout
from epmq_export.models.blocks import linears
from epmq_export.models.classifiers import classes_file
from epmq_export.models.family import calibrated_on, heads_of
from epmq_export.models.heads import AsLogits, Reading
from epmq_export.models.precision import whole_float32
from epmq_export.models.samples import Sample
from epmq_export.pipeline.about import about
from epmq_export.pipeline.forecast.planned import tensor_shapes
from epmq_export.pipeline.job import Job
from epmq_export.pipeline.models import expert_names, untrained
from epmq_export.pipeline.progress import Update
from epmq_export.pipeline.refinement import refinement_of
from epmq_export.pipeline.requirements import require_matches
from epmq_export.pipeline.room import require_room_to_calibrate
from epmq_export.pipeline.size_limit import SizeLimit
from epmq_export.pipeline.targets import FULL_PRECISION, Target
from epmq_export.recipe.values import size_in_bytes
from epmq_export.tensors import packed_writer
from epmq_export.tensors.packed import Packed
from epmq_export.tensors.packed_index import PackedIndex
from epmq_export.tensors.packed_parts import Replaced, Shipped
from epmq_export.verification.heads import reading_of

log = logging.getLogger(__name__)

_BLOCKS = "blocks"
# The name that the tensors of no block have among the finished blocks.
_REST = "rest"


_Choice = Callable[[Calibrator], tuple[Layout, str]]
"""A function that chooses the grids of a calibration, and says in a sentence how."""


@dataclass(frozen=True)
class _Found:
    """The settings that are known before the first block: those of the recipe, or those of the searches that
    it asks for.
    """

    method: Mapping[str, Any]
    chosen: Mapping[str, str]
    """The grid that a budget has chosen for each tensor."""

    notes: list[str] = field(default_factory=list)
    tune: list[Mapping[str, Any]] | None = None


@dataclass
class _Told:
    """What is told of everything that has been calibrated so far. The tensors are on disk."""

    losses: list[LayerLoss] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


@whole_float32()
def calibrate(job: Job, directory: Path, target: Target | None, resume: bool, progress: Update) -> Packed:
    """Calibrate by the job's recipe and write the packed checkpoint, whole or not at all.

    Without a target nothing is rounded: the solves are stored in full precision. Results of searches and
    finished blocks are kept beside `directory` until it is whole. With `resume` an interrupted run continues
    from them, to the same bytes. Raises RecipeError for settings that do not suit the model, InputError for a
    wrong model, and CalibrationError where the numbers cannot be solved.
    """
    recipe = job.recipe
    require_room_to_calibrate(job, directory, target)
    progress("measuring the merge", 0, 0)
    told = list[str]()
    calibrator = calibrator_of(job, target, progress, told)
    budget = recipe.quantization.bits if target is not None else None
    candidates = [GRIDS[name] for name in target.candidates] if target is not None else []
    lessons = _lessons(job, calibrator.tasks)
    _require_feasible(job, target, calibrator, lessons, budget, candidates)
    progress("hashing the inputs", 0, 0)
    origin = job.provenance()
    choose = _choice(job, target, calibrator, candidates, origin)
    decides = {"family": job.models.family.name, "method": asdict(calibrator.method), **origin}
    decides |= {"device": job.device.type, "layout": asdict(calibrator.layout)}
    decides["formats"] = [FULL_PRECISION] if target is None else list(target.formats)
    finished = FinishedBlocks(
        files.beside(directory, _BLOCKS),
        decides,
        threads=torch.get_num_threads(),
        resume=resume,
        ranks=job.ranks.count,
    )
    made = _Told(notes=[*told, *_known_notes(job, target), *finished.notes])
    try:
        found = _search(calibrator, finished, recipe.calibration.tune, choose)
        made.notes += found.notes
        images = job.models.family.images is not None
        read = {note for task in job.tasks if images for note in task.notes}  # Said when they were read.
        for note in (each for each in made.notes if each not in read):
            log.warning("%s", note)
        layout = replace(calibrator.layout, chosen=found.chosen)
        _walk(replace(calibrator, method=Method(**found.method), layout=layout), finished, made)
    except InputError:
        finished.remove()  # Wrong inputs stay wrong, so a later run cannot continue from here.
        raise
    stored = finished.stored()
    refined = None if target is None else _refined(job, calibrator, lessons, stored, made)
    split = recipe.export.split_size
    index = PackedIndex(
        family=job.models.family.name,
        method=found.method,
        about=about(recipe, job.checkpoints.base.model_directory, job.models.family),
        **origin,
        layers=[asdict(loss) for loss in made.losses],
        notes=made.notes,
        split_bytes=None if split is None else size_in_bytes(split),
        tune=found.tune,
        refine=None if refined is None else refined.gain,
    )
    family = job.models.family
    beside = classes_file(heads_of(family))
    shipped = stored if refined is None else Replaced(stored, refined.tensors)
    packed_writer.write_parts(directory, shipped, index, family.directory, beside)
    finished.remove()
    return Packed(directory)


def calibrated_before(job: Job, directory: Path, target: Target | None) -> Packed:
    """Return the packed checkpoint that an earlier run of the same calibration has finished, and remove what
    it has left beside it. Raises RecipeError where that run was another one, and OutputError where it is
    still at work on it.
    """
    packed = job.calibrated(directory)
    storage = storage_of(job.models.family, _layout(job, target))
    for name in linears(job.models.family):
        grid, found = storage(name, tuple(job.models.base.shape(name)))[0], packed.index.grids.get(name)
        wanted = grid.name if isinstance(grid, Grid) else None
        searched = job.recipe.quantization.chooses and None not in (wanted, found)
        if found != wanted and not searched:
            raise RecipeError(
                f"{directory}: found {name} on {found or 'no grid'}, expected {wanted or 'no grid'}: it was "
                "calibrated for another format; start again with --overwrite"
            )
    with files.locked(directory):  # It removes what a killed run has left of its own lock and parts.
        files.remove(files.beside(directory, _BLOCKS))
    return packed


def _layout(job: Job, target: Target | None) -> Layout:
    return FULL if target is None else job.recipe.quantization.layout.replaced(target.replaced)


def calibrator_of(job: Job, target: Target | None, progress: Update, told: list[str]) -> Calibrator:
    """Return the calibration that the recipe asks for, with the length of the anchor measured. What that
    warns of is added to `told`.
    """
    recipe, models = job.recipe, job.models
    require_matches(recipe, models.family)
    names = expert_names(recipe, models.experts)

    def tell(vectors: TaskVectors) -> None:
        log.info("task vectors: %s", vectors.sentence(names))
        told.extend(vectors.warnings(names))

    method = with_length(
        recipe.calibration.settings,
        models.family,
        models.base,
        [*models.experts.values()],
        models.merged,
        job.device,
        tell,
    )
    return Calibrator(
        family=models.family,
        base=models.base,
        merged=models.merged,
        tasks=[task_data(job, task) for task in job.tasks],
        method=method,
        layout=_layout(job, target),
        device=job.device,
        progress=progress,
        ranks=job.ranks,
    )


def _require_feasible(
    job: Job,
    target: Target | None,
    calibrator: Calibrator,
    lessons: Sequence[TaskData],
    budget: float | None,
    candidates: Sequence[Grid],
) -> None:
    """Raise RecipeError or CalibrationError for settings that would otherwise fail only after the work."""
    if _refinement(job) is not None:
        if target is None and job.recipe.calibration.refine != "auto":
            itself = "refine" in job.recipe.source["calibration"]
            found = "it set" if itself else f"{job.recipe.calibration.effort!r}, which asks for refine"
            raise job.recipe.mistake(
                ("calibration", "refine" if itself else "effort"),
                f"found {found}, expected it left out for safetensors: refine follows the rounding to a grid",
            )
        require_samples(lessons)
    if budget is not None and budget < (fewest := fewest_bits(calibrator, candidates)):
        least = math.ceil(fewest * 1e4) / 1e4
        raise job.recipe.mistake(
            ("quantization", "bits"),
            (
                f"found {budget:g}, expected at least {least:g}: the fewest a weight that the linears' "
                "grids take"
            ),
        )


def _choice(
    job: Job,
    target: Target | None,
    calibrator: Calibrator,
    candidates: Sequence[Grid],
    origin: Mapping[str, Any],
) -> _Choice | None:
    """Return what chooses the grids by measured loss, or None where the recipe says them.

    Raises RecipeError for a size that the smallest grids do not reach.
    """
    quantization = job.recipe.quantization
    if target is None or not quantization.chooses:
        return None
    if quantization.bits is not None:
        return partial(with_budget, bits=quantization.bits, candidates=candidates)
    assert quantization.size is not None
    index = PackedIndex(
        family=job.models.family.name,
        method=asdict(calibrator.method),
        about=about(job.recipe, job.checkpoints.base.model_directory, job.models.family),
        **origin,
    )
    limit = SizeLimit(
        bytes=size_in_bytes(quantization.size),
        formats=target.writers,
        family=job.models.family,
        shapes=tensor_shapes(job.models.family),
        index=index,
    )
    limit.require(job.recipe, calibrator.layout, candidates)
    return partial(within_size, asked=quantization.size, fits=limit.fits, candidates=candidates)


def _known_notes(job: Job, target: Target | None) -> list[str]:
    """Return a sentence for everything that is already known not to be as the recipe asked."""
    notes = [*job.notes, *(note for task in job.tasks for note in task.notes)]
    names = expert_names(job.recipe, job.models.experts)
    notes += untrained(job.models.base, dict(zip(names, job.models.experts.values(), strict=True)))
    if target is not None:
        formats = " and ".join(name.upper() for name in target.formats)
        notes += [
            f"{formats} cannot hold {name}: {other} stands in for it"
            for name, other in target.replaced.items()
        ]
    return notes


def _search(
    calibrator: Calibrator,
    finished: FinishedBlocks,
    asked: bool,
    choose: _Choice | None,
) -> _Found:
    """Return the method's numbers and the grids. They are searched where the recipe asks for it and no
    earlier run has done it.
    """
    if (known := finished.search()) is not None:
        return _Found(**known)
    trials: list[Mapping[str, Any]] | None = None
    notes: list[str] = []
    if asked:
        tuned = tune(calibrator, lambda text: calibrator.progress(text, 0, 0))
        if tuned.method.target != calibrator.method.target:
            notes.append(
                f"tune found the merge itself nearer to the experts than {calibrator.method.name} on what it "
                "held out: the merge is reproduced, as gptq does it"
            )
        calibrator = replace(calibrator, method=tuned.method)
        trials = [asdict(trial) for trial in tuned.trials]
    if choose is not None:
        layout, note = choose(calibrator)
        calibrator = replace(calibrator, layout=layout)
        notes.append(note)
    found = _Found(
        method=asdict(calibrator.method),
        chosen=dict(calibrator.layout.chosen),
        notes=notes,
        tune=trials,
    )
    finished.put_search(asdict(found))
    return found


def _walk(calibrator: Calibrator, finished: FinishedBlocks, made: _Told) -> None:
    """Calibrate block by block, then take the tensors of no block from the merge."""
    unreached: list[int] = []
    for block, result in calibrate_blocks(calibrator, finished.get):
        finished.put(block.name, result)
        made.losses += result.losses
        made.notes += result.notes
        unreached += result.unreached.values()
    if unreached:
        none = unreached.count(len(calibrator.tasks))
        made.notes.append(
            f"{len(unreached)} linears of mixtures get no row of some task, {none} of them none at all: more "
            "samples reach more of them, and where none does the anchor stands"
        )
        log.warning("%s", made.notes[-1])
    for number, result in enumerate(rest(calibrator.family, calibrator.merged, calibrator.layout)):
        finished.put(f"{_REST}.{number}", result)
        made.notes += result.notes


def _refinement(job: Job) -> Refinement | None:
    """Return what is refined behind the last block, None where nothing is."""
    fewest = min((len(task.calibration) for task in job.tasks), default=0)
    samples = sum(len(task.calibration) + len(task.further) for task in job.tasks)
    return refinement_of(job.recipe, job.models.family, fewest, samples)


def _lessons(job: Job, tasks: Sequence[TaskData]) -> Sequence[TaskData]:
    """Return the tasks with all samples that the model is refined on; as they are where it is not refined."""
    if _refinement(job) is None:
        return tasks
    further = [_samples(job, task, task.further) for task in job.tasks]
    return [replace(task, samples=[*task.samples, *more]) for task, more in zip(tasks, further, strict=True)]


def _refined(
    job: Job, calibrator: Calibrator, lessons: Sequence[TaskData], stored: StoredBlocks, made: _Told
) -> Refined | None:
    """Distil the whole model where the recipe asks for it, or return None."""
    settings = _refinement(job)
    if settings is None:
        return None
    refined = refine(
        calibrator.family,
        lessons,
        Shipped(stored),
        settings,
        calibrator.device,
        calibrator.progress,
    )
    if refined.step == 0:
        made.notes.append(
            "refine found nothing better than its start on the samples it held out: the start is kept"
        )
        log.warning("%s", made.notes[-1])
    return refined


def task_data(job: Job, task: Task) -> TaskData:
    """Return the calibration data of a task, with its head where `tune` or `refine` reads by it."""
    family, calibration = job.models.family, job.recipe.calibration
    head: Reading | None = None
    if calibration.tune or _refinement(job) is not None:
        language = family.language
        head = AsLogits() if language is not None else reading_of(task, family, job.models.base, job.device)
    return TaskData(
        name=task.name,
        expert=job.models.experts[task.expert],
        samples=_samples(job, task, task.calibration),
        head=head,
    )


def _samples(job: Job, task: Task, samples: Sequence[Sample]) -> Sequence[Sample]:
    """Return a task's samples as its expert is given them."""
    family = job.models.family
    cut = [family.truncate(sample) for sample in samples]
    return calibrated_on(family, job.models.experts[task.expert], cut, job.device)
