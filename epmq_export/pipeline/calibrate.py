"""The stage `calibrate`: from opened sources to a packed checkpoint on disk."""

import dataclasses
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from epmq_export.calibration.anchor import with_length
from epmq_export.calibration.budget import fewest_bits, with_budget
from epmq_export.calibration.calibrate import Calibrator, LayerLoss, TaskData
from epmq_export.calibration.method import Method
from epmq_export.calibration.refine import Refinement, refine, require_samples
from epmq_export.calibration.resume import FinishedBlocks
from epmq_export.calibration.tune import tune
from epmq_export.calibration.uncalibrated import rest
from epmq_export.data.task import Task
from epmq_export.errors import InputError
from epmq_export.files import partial
from epmq_export.grids import BUDGET, GRIDS, Grid
from epmq_export.grids.layout import FULL
from epmq_export.models.family import Family, calibrated_on
from epmq_export.models.heads import AsLogits, Reading
from epmq_export.models.model_set import ModelSet
from epmq_export.pipeline.provenance import fingerprint
from epmq_export.pipeline.requirements import require_matches
from epmq_export.recipe.recipe import Recipe
from epmq_export.recipe.values import ONNX_GRIDS
from epmq_export.tensors import packed
from epmq_export.tensors.packed import Packed, PackedTensor
from epmq_export.verification.heads import head_of

log = logging.getLogger(__name__)
Progress = Callable[[str, int, int], None]


def calibrate(
    recipe: Recipe,
    sources: ModelSet,
    tasks: Sequence[Task],
    origin: dict[str, Any],
    directory: Path,
    device: torch.device,
    resume: bool,
    progress: Progress,
    format: str = "gguf",
) -> Packed:
    """Calibrate by the recipe and write the packed checkpoint, whole or not at all: for `gguf`, for `onnx` on
    grids that it can hold, for `safetensors` in full precision, with the solves left unrounded.

    What was searched and finished blocks are kept beside it until it is whole; with `resume` an interrupted
    run goes on from them, to the same bytes.
    """
    if format == "safetensors" and recipe.calibration.refine:
        raise recipe.mistake(
            ("calibration", "refine"),
            "found it set, expected it left out for safetensors: refine trains what is on a grid",
        )
    quantization = recipe.quantization
    replaced = quantization.replaced_in_onnx if format == "onnx" else {}
    require_matches(recipe, sources.family)
    calibrator = Calibrator(
        sources.family,
        sources.base,
        sources.merged,
        [_data(task, sources, recipe, device) for task in tasks],
        with_length(
            recipe.calibration.settings,
            sources.family,
            sources.base,
            [*sources.experts.values()],
            sources.merged,
        ),
        FULL if format == "safetensors" else quantization.layout.replaced(replaced),
        device,
        progress=progress,
    )
    # What is sure to fail fails before the work, not after it.
    if recipe.calibration.refine:
        require_samples(calibrator.tasks)
    budget = None if format == "safetensors" else quantization.bits
    candidates = _candidates(sources.family, format) if budget is not None else []
    if budget is not None and budget < (fewest := fewest_bits(calibrator, candidates)):
        raise recipe.mistake(
            ("quantization", "bits"),
            (
                f"found {budget:g}, expected at least {math.ceil(fewest * 1e4) / 1e4:g}: the fewest a weight "
                "that the linears' grids take"
            ),
        )
    begun = {"family": sources.family.name, "method": asdict(calibrator.method), **origin}
    decides = {**begun, "device": device.type, "layout": asdict(calibrator.layout), "format": format}
    finished = FinishedBlocks(partial(directory).with_suffix(".blocks"), fingerprint(decides), resume)
    notes = [note for task in tasks for note in task.notes]
    notes += [f"ONNX cannot hold {name}: {other} stands in for it" for name, other in replaced.items()]
    tensors: dict[str, PackedTensor | Tensor] = {}
    losses: list[LayerLoss] = []
    try:
        found = finished.search()
        if found is None:
            found = _search(calibrator, recipe.calibration.tune, budget, candidates)
            finished.put_search(found)
        calibrator = dataclasses.replace(
            calibrator,
            method=Method(**found["method"]),
            layout=dataclasses.replace(calibrator.layout, chosen=found["chosen"]),
        )
        notes += found["notes"]
        for note in notes:
            log.warning("%s", note)
        for block, result in calibrator.run(finished.get):
            finished.put(block, result)
            tensors.update(result.tensors)
            losses += result.losses
            notes += result.notes
        carried = rest(sources.family, sources.merged, calibrator.layout)
        tensors.update(carried.tensors)
        notes += carried.notes
    except InputError:
        finished.remove()  # wrong inputs stay wrong: there is nothing to go on from
        raise
    trained: dict[str, Any] = {}
    if recipe.calibration.refine:
        refined = refine(
            sources.family, calibrator.tasks, tensors, Refinement(recipe.calibration.refine), device, progress
        )
        tensors = refined.tensors
        trained["refine"] = {"before": refined.before, "after": refined.after, "step": refined.step}
        if refined.step == 0:
            notes.append(
                "refine found nothing better than its start on the texts it held out: the start is kept"
            )
            log.warning("%s", notes[-1])
    index = {
        **begun,
        "method": found["method"],
        **found["record"],
        **trained,
        "notes": notes,
        "layers": [asdict(loss) for loss in losses],
    }
    packed.write(directory, tensors, index, sources.family.directory)
    finished.remove()
    return Packed(directory)


def _candidates(family: Family, format: str) -> list[Grid]:
    """What a budget chooses from: in GGUF the best grids, or all that the family's runtime can decode, where
    it cannot decode those.
    """
    if format == "onnx":
        return [GRIDS[name] for name in ONNX_GRIDS]
    known = family.gguf().grids
    return (
        [GRIDS[name] for name in BUDGET]
        if known is None
        else [grid for grid in GRIDS.values() if grid.name in known]
    )


def _search(
    calibrator: Calibrator, asked: bool, budget: float | None, candidates: Sequence[Grid]
) -> dict[str, Any]:
    """What is searched before the first block, where the recipe asks for it, as JSON has it: the `method`,
    the `chosen` grids, `notes`, and the `record` that the index keeps.
    """
    notes, record = [], {}
    if asked:
        tuned = tune(calibrator, lambda text: calibrator.progress(text, 0, 0))
        calibrator = dataclasses.replace(calibrator, method=tuned.method)
        record["tune"] = [asdict(trial) for trial in tuned.trials]
    if budget is not None:
        layout, note = with_budget(calibrator, budget, candidates)
        calibrator = dataclasses.replace(calibrator, layout=layout)
        notes.append(note)
    return {
        "method": asdict(calibrator.method),
        "chosen": dict(calibrator.layout.chosen),
        "notes": notes,
        "record": record,
    }


def _data(task: Task, sources: ModelSet, recipe: Recipe, device: torch.device) -> TaskData:
    head: Reading | None = None
    if recipe.calibration.tune or recipe.calibration.refine:
        head = (
            AsLogits()
            if sources.family.modality == "language"
            else head_of(task, sources.family, sources.base, device)
        )
    expert = sources.experts[task.expert]
    samples = [sources.family.truncate(sample) for sample in task.calibration]
    return TaskData(task.name, expert, calibrated_on(sources.family, expert, samples, device), head)
