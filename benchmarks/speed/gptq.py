"""GPTQ beside llm-compressor's, on the same merged model and texts: whole processes, which read the model,
calibrate and write.

llm-compressor runs in an environment of its own, which --peer-python names; the docstring of
benchmarks/peers/llm_compressor_worker.py says how to make one. It is given the merged model; our own command
merges the demo's adapters besides.
"""

import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

import yaml

import epmq_export as epmq
from benchmarks import ROOT
from benchmarks.gpu.minilm import minilm_directory, write_recipe
from benchmarks.peers.llm_compressor import GROUP, WORKER
from benchmarks.speed.asked import Asked
from benchmarks.speed.process import Rows, Run, alternating, watched
from epmq_export.installed import registry
from epmq_export.models.blocks import linears
from epmq_export.pipeline.tasks import load_tasks
from epmq_export.recipe.recipe import Recipe


def gptq(asked: Asked, shape: str) -> Rows:
    """Return the row of the demo's model, or none where the package that holds its base is not there."""
    base = minilm_directory()
    if base is None:
        return {}
    folder = asked.work / "gptq"
    folder.mkdir(exist_ok=True)
    recipe = write_recipe(base, folder, shape == "tiny")
    content = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    content["calibration"] = {**content.get("calibration", {}), "method": "gptq"}
    recipe.write_text(yaml.safe_dump(content), encoding="utf-8")
    out = folder / "out"
    ours = (sys.executable, ROOT / "cli.py", "calibrate", recipe, "-o", out)
    jobs: dict[str, Callable[[], Run]] = {"epmq": partial(_fresh, out, ours)}
    texts = _texts(epmq.load_recipe(recipe))
    if asked.peer_python is not None:
        request = _request(recipe, base, folder, texts)
        jobs["llm-compressor"] = partial(watched, (asked.peer_python.absolute(), "-I", WORKER, request))
    return {f"GPTQ of MiniLM, {len(texts)} texts": alternating(jobs, asked.repeats)}


def _texts(recipe: Recipe) -> list[str]:
    """Return the calibration texts of all tasks, as the recipe samples them."""
    family = registry().open_family(Path(recipe.base_model))
    return [str(text) for task in load_tasks(recipe, family) for text in task.calibration]


def _request(recipe: Path, base: Path, folder: Path, texts: list[str]) -> Path:
    """Write the merged model, and what llm-compressor's worker is asked; return the file of the latter."""
    merged = epmq.merge(recipe, folder / "merged", overwrite=True)
    asked = {
        "model": str(merged),
        "texts": texts,
        "linears": linears(registry().open_family(base)),
        "group": GROUP,
        "weights": str(folder / "weights.safetensors"),
        "answer": str(folder / "answer.json"),
    }
    request = folder / "request.json"
    request.write_text(json.dumps(asked), encoding="utf-8")
    return request


def _fresh(out: Path, command: tuple[str | Path, ...]) -> Run:
    shutil.rmtree(out, ignore_errors=True)
    return watched(command)
