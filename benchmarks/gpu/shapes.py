"""Calibrations of true shapes with random weights. They say nothing of accuracy, and all of the time that a
calibration itself takes: models are not read, merged or written.
"""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from benchmarks.gpu.noise import Experts, Mean, pictures, texts, write_llama
from benchmarks.gpu.row import Request, Row, Tensors, equal_codes
from benchmarks.size.models import SHAPES, SIDE, Shape, write_base
from epmq_export.calibration.calibrate import calibrate_blocks
from epmq_export.calibration.calibrator import Calibrator, TaskData
from epmq_export.calibration.method import DEFAULT_METHOD, PRESETS
from epmq_export.grids.layout import Layout
from epmq_export.installed import registry
from epmq_export.models.family import Family
from epmq_export.models.precision import whole_float32
from epmq_export.models.samples import Sample

CPU = torch.device("cpu")
# The length of the anchor is measured over whole models; here it is a usual one (docs/method.md).
METHOD = replace(PRESETS[DEFAULT_METHOD], rho=1.5)
# A language model that only tries the command itself.
TINY = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 600,
}


@dataclass(frozen=True)
class Calibrated:
    """What a calibration made, and the seconds of each block."""

    tensors: Tensors
    loss: float
    seconds: Sequence[float]


@whole_float32()
def calibrate(experts: Experts, samples: Sequence[Sequence[Sample]], device: torch.device) -> Calibrated:
    """Calibrate the mean of experts on the samples of each, by the default method onto Q4_0."""
    data = zip(experts.experts, samples, strict=True)
    calibrator = Calibrator(
        family=experts.family,
        base=experts.base,
        merged=Mean(experts.experts),
        tasks=[TaskData(f"task {t}", expert, each) for t, (expert, each) in enumerate(data)],
        method=METHOD,
        layout=Layout(),
        device=device,
    )
    tensors: dict[str, object] = {}
    losses, seconds = [], []
    started = time.monotonic()
    for _, result in calibrate_blocks(calibrator):
        tensors |= result.tensors
        losses += [loss.loss_after for loss in result.losses]
        _wait(device)
        seconds.append(time.monotonic() - started)
        started = time.monotonic()
    return Calibrated(tensors, sum(losses) / len(losses), seconds)  # type: ignore[arg-type]


def small_language(request: Request) -> Iterator[Row]:
    """Calibrate some layers of SmolLM2-135M's shape on the processor and on the device."""
    layers, count, words = (1, 4, 6) if request.tiny else (6, 32, 48)
    sizes = {"hidden_size": 576, "intermediate_size": 1536, "num_attention_heads": 9}
    sizes |= {"num_key_value_heads": 3, "vocab_size": 49152}
    family = _llama(request.work / "smollm2", layers, TINY if request.tiny else sizes)
    samples = [texts(count, words, seed) for seed in range(2)]
    experts = Experts(family, CPU, 2)
    what = f"SmolLM2-135M's shape, {layers} of 30 layers, 2 experts of {count} texts of {words} words"
    there = calibrate(experts, samples, CPU)
    yield Row(what, CPU, sum(there.seconds), loss=there.loss)
    here = calibrate(experts, samples, request.device)
    same = equal_codes(there.tensors, here.tensors)
    yield Row(
        what,
        request.device,
        sum(here.seconds),
        loss=here.loss,
        equal=same,
        remarks="weights made on the processor; the losses differ by "
        f"{100 * abs(here.loss / there.loss - 1):.2f} %",
        passed=abs(here.loss / there.loss - 1) < 0.02,
    )


def images(request: Request) -> Iterator[Row]:
    """Calibrate ViT-B/32's shape with eight full experts."""
    count, experts, side = (4, 2, 64) if request.tiny else (256, 8, SIDE)
    directory = request.work / "vit"
    write_base(Shape(64, 1, 32, 64, 32) if request.tiny else SHAPES["b32"], directory)
    family = registry().open_family(directory)
    samples = [pictures(count, side, seed) for seed in range(experts)]
    found = calibrate(Experts(family, request.device, experts), samples, request.device)
    what = f"ViT-B/32's shape, {experts} full experts of {count} images"
    remarks = "reading the images included; FeatCal publishes 53 s on one GPU"
    yield Row(what, request.device, sum(found.seconds), loss=found.loss, remarks=remarks)


def large_language(request: Request) -> Iterator[Row]:
    """Calibrate some layers of a 7B Llama's shape with four LoRA experts, and tell what all would take."""
    layers, count, words = (1, 4, 6) if request.tiny else (2, 128, 96)
    sizes = {"hidden_size": 4096, "intermediate_size": 11008, "num_attention_heads": 32}
    sizes |= {"num_key_value_heads": 32, "vocab_size": 32000}
    family = _llama(request.work / "llama", layers, TINY if request.tiny else sizes)
    samples = [texts(count, words, seed) for seed in range(4)]
    found = calibrate(Experts(family, request.device, 4, rank=16), samples, request.device)
    whole = sum(found.seconds) + (32 - layers) * found.seconds[layers]
    what = f"7B Llama's shape, {layers} of 32 layers, 4 LoRA-16 experts of {count} texts of {words} words"
    remarks = f"all 32 layers, extrapolated from the last one's {found.seconds[layers]:.1f} s: {whole:.0f} s"
    yield Row(what, request.device, sum(found.seconds), loss=found.loss, remarks=remarks)


def _llama(directory: Path, layers: int, sizes: dict[str, int]) -> Family:
    write_llama(directory, num_hidden_layers=layers, max_position_embeddings=2048, **sizes)
    return registry().open_family(directory)


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
