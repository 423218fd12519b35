"""The stage `refine`, which trains the whole model, behind a rounding to the nearest that is not timed."""

from functools import partial

import torch
import yaml

import epmq_export as epmq
from benchmarks.gpu.minilm import minilm_directory, write_recipe
from benchmarks.size.models import Shape, prepare
from benchmarks.speed.asked import Asked
from benchmarks.speed.process import Rows, Run, Stopwatch, alternating
from epmq_export.calibration.calibrate import calibrate_blocks
from epmq_export.calibration.calibrator import Calibrator
from epmq_export.calibration.refine import refine
from epmq_export.calibration.refinement import Refinement
from epmq_export.installed import registry
from epmq_export.models.precision import whole_float32
from epmq_export.pipeline.calibrate import calibrator_of
from epmq_export.pipeline.job import Job
from epmq_export.pipeline.targets import targets
from epmq_export.tensors.packed import Values

STEPS = 100


def refining(asked: Asked, shape: str) -> Rows:
    """Return the row of MiniLM with the demo's experts and texts, or of a tiny CLIP; none without MiniLM."""
    folder = asked.work / "refine"
    folder.mkdir(exist_ok=True)
    minilm = minilm_directory()
    if shape == "tiny":
        recipe, steps = prepare("clip-64", Shape(64, 1, 32, 64, 32), 2, 8, "linear", folder), 2
    elif minilm is not None:
        recipe, steps = write_recipe(minilm, folder), STEPS
    else:
        return {}
    content = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    content["calibration"] = {**content.get("calibration", {}), "method": "rtn", "refine": steps}
    recipe.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    job = Job.open(epmq.load_recipe(recipe), registry(), torch.device("cpu"))
    target, *_ = targets(job.recipe, job.models.family, registry().formats, job.formats)
    calibrator = calibrator_of(job, target, lambda text, done, total: None, [])
    rounded = {
        name: value for _, result in calibrate_blocks(calibrator) for name, value in result.tensors.items()
    }
    samples = sum(len(task.samples) for task in calibrator.tasks)
    run = partial(_refined, calibrator, Values(rounded), Refinement(steps=steps))
    return {f"refine of {shape}, {steps} steps, {samples} samples": alternating({"epmq": run}, asked.repeats)}


@whole_float32()
def _refined(calibrator: Calibrator, rounded: Values, settings: Refinement) -> Run:
    """Refine what is rounded, which stays as it is."""
    watch = Stopwatch()
    with watch():
        refine(calibrator.family, calibrator.tasks, rounded, settings, calibrator.device)
    return watch.run
