"""Calibrations by the default method, held against their limit: the products that it cannot do without.

The limit is a pass of the student and one of each expert through all blocks, and the Gram products of the
inputs of their linears: half a product for x_s x_s^T, which is symmetric, and one for x* x_s^T. They are
computed with the same rows, batch by batch. What a calibration takes beyond it are the solves, the rounding
and the descent. Neither side reads, merges or writes models.
"""

from collections.abc import Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
import yaml
from torch import Tensor, nn

import epmq_export as epmq
from benchmarks.gpu.minilm import minilm_directory, write_recipe
from benchmarks.gpu.noise import texts
from benchmarks.size.models import Shape as ImageShape
from benchmarks.size.models import prepare
from benchmarks.speed.asked import Asked
from benchmarks.speed.models import SHAPES, adapter, with_tokenizer, write_base
from benchmarks.speed.process import Rows, Run, Stopwatch, alternating
from epmq_export.calibration.calibrate import calibrate_blocks
from epmq_export.calibration.calibrator import BATCH, Calibrator
from epmq_export.installed import registry
from epmq_export.models.blocks import inputs_of, load_block, run_block
from epmq_export.models.family import Block
from epmq_export.models.precision import whole_float32
from epmq_export.models.samples import length
from epmq_export.pipeline.calibrate import calibrator_of
from epmq_export.pipeline.job import Job
from epmq_export.pipeline.targets import targets

CPU = torch.device("cpu")
# A text of so many letters is as many tokens for a tokenizer of bytes.
EXPERTS, TEXTS, LETTERS, MORE = 4, 32, 64, 512
LIMIT = "its products alone"


def calibrations(asked: Asked, shape: str) -> Rows:
    """Return a row for each model."""
    found = {}
    for name, recipe in recipes(asked.work, shape).items():
        job = Job.open(epmq.load_recipe(recipe), registry(), CPU)
        for tensor in job.models.merged.names():
            job.models.merged.load(tensor)  # A costly merge is kept, so that no calibration has to merge.
        jobs = {"epmq": partial(calibration, job), LIMIT: partial(limit, job)}
        found[f"calibration of {name}"] = alternating(jobs, asked.repeats)
    return found


def recipes(work: Path, shape: str) -> Mapping[str, Path]:
    """Return the recipes by what they are, those of tiny models for the shape `tiny`. What they name is
    written where it is not there.
    """
    tiny, minilm = shape == "tiny", minilm_directory()
    images = 2 if tiny else 16
    image = ImageShape(64, 1, 32, 64, 32) if tiny else ImageShape(768, 2, 32, 512, 512)
    folder = work / "calibrate"
    folder.mkdir(exist_ok=True)
    layer = f"a layer of {shape}, {EXPERTS} LoRA experts of {TEXTS} texts"
    found = {
        layer: llama(folder, shape, 1),
        f"{image.layers} layers of CLIP, {image.width} wide, {EXPERTS} experts of {images} images": prepare(
            f"clip-{image.width}", image, EXPERTS, images, "linear", folder
        ),
    }
    if not tiny:
        found[f"{layer} of {MORE} tokens"] = llama(folder, shape, 1, MORE)
    if not tiny and minilm is not None:
        found["the demo"] = write_recipe(minilm, folder)
    return found


def llama(work: Path, shape: str, layers: int, letters: int = LETTERS) -> Path:
    """Return the recipe of some layers of a Llama with LoRA experts, and texts of so many letters."""
    sizes = replace(SHAPES[shape], layers=layers)
    folder = work / f"{shape}-{layers}"
    base = with_tokenizer(write_base(sizes, folder / "base"))
    tasks = {}
    for t in range(EXPERTS):
        written = adapter(sizes, base, folder / f"lora-{t}", t)
        data = folder / f"texts-{letters}-{t}.txt"
        lines = (f"{text[:letters]}\n" for text in texts(TEXTS + 2, letters, t))
        data.write_text("".join(lines), encoding="utf-8")
        tasks[f"task{t}"] = {"expert": str(written), "calibration": str(data)}
    content = {"base_model": str(base), "merge_method": "tsvm", "tasks": tasks}
    recipe = folder / f"recipe-{letters}.yaml"
    recipe.write_text(yaml.safe_dump({**content, "calibration": {"samples": TEXTS}}), encoding="utf-8")
    return recipe


@whole_float32()
def calibration(job: Job) -> Run:
    """Calibrate from the merge on, to the codes of all blocks."""
    watch = Stopwatch()
    with watch():
        for _ in calibrate_blocks(_calibrator(job)):
            pass
    return watch.run


@whole_float32()
def limit(job: Job) -> Run:
    """Compute the products that the calibration cannot do without."""
    asked, watch = _calibrator(job), Stopwatch()
    both = asked.method.target == "experts" and asked.method.alpha > 0
    for task in asked.tasks:
        batches = [*asked.family.batches(sorted(task.samples, key=length), BATCH)]
        for source in (asked.merged, task.expert) if both else (asked.merged,):
            hidden: list[Tensor | None] = [None] * len(batches)
            for block in asked.family.blocks:
                module = load_block(block, source, CPU)
                linears = _linears(block, module)
                if block.name == asked.family.blocks[-1].name and not linears:
                    break  # The scores of a decoder are never read.
                steps = [] if source is task.expert else linears
                for b, batch in enumerate(batches):
                    run = partial(run_block, block, module, hidden[b], batch, CPU)
                    with watch():
                        seen, hidden[b] = inputs_of(module, [step[0] for step in steps], run, stop=False)
                    for step, inputs in zip(steps, seen, strict=True):
                        weights = block.row_weights(step, batch, (inputs.shape[0], inputs.shape[1]))
                        rows = inputs[weights > 0]
                        with watch():
                            rows[:, : rows.shape[1] // 2].T @ rows
                        if both:
                            with watch():
                                rows.T @ rows
    return watch.run


def _linears(block: Block, module: nn.Module) -> list[tuple[str, ...]]:
    return [step for step in block.steps if isinstance(module.get_submodule(step[0]), nn.Linear)]


def _calibrator(job: Job) -> Calibrator:
    target, *_ = targets(job.recipe, job.models.family, registry().formats, job.formats)
    return calibrator_of(job, target, lambda text, done, total: None, [])
