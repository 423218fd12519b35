"""The commands on CLIP: experts that are image towers alone, images as data, zero-shot heads, files for two
runtimes.
"""

import json
import shutil
from pathlib import Path

import jsonschema  # type: ignore[import-untyped]
import numpy as np
import pytest
import yaml
from safetensors.torch import load_file

from epmq_export.tensors.packed import Packed, PackedTensor
from epmq_export.verification.report import SCHEMA
from tests.command_line.command import Result, Warm, ran_once
from tests.tiny.built_once import built_once
from tests.tiny.clip import LAYERS, clip, vision_expert

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 50, 230)}


def images(path: Path, count: int, seed: int) -> None:
    """Noise around the colour of each image's class: `x` uint8 [count, 24, 40, 3], `y` and `names`."""
    random = np.random.Generator(np.random.PCG64(seed))
    labels = np.arange(count) % len(COLOURS)
    noise = random.integers(-30, 31, (count, 24, 40, 3))
    pixels = (np.array(list(COLOURS.values()))[labels][:, None, None] + noise).clip(0, 255).astype(np.uint8)
    np.savez(path, x=pixels, y=labels, names=np.array(list(COLOURS)))


def write_recipe(folder: Path) -> None:
    base = clip(folder / "base")
    vision_expert(folder / "first", base, 1)
    vision_expert(folder / "second", base, 2, prefix=False)
    for name, count, seed in (("train", 20, 1), ("test", 90, 2)):
        images(folder / f"{name}.npz", count, seed)
    data = {name: {"path": f"{name}.npz", "images": "x", "labels": "y"} for name in ("train", "test")}
    judged = {
        "calibration": data["train"],
        "evaluation": data["test"],
        "templates": ["a photo of a {} square", "the {} noise"],
    }
    content = {
        "base_model": "./base",
        "merge_method": "task_arithmetic",
        "tasks": {
            "own names": {"expert": "./first", **judged},
            "unlabelled": {"expert": "./second", "calibration": data["train"]},
        },
        "calibration": {"samples": 12},
        "quantization": {"overrides": {"text_model.*.mlp.*": "Q8_0"}},
        "verify": {"rule": "point", "tasks": 0.1},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content, sort_keys=False))


@pytest.fixture(scope="module")
def recipe() -> Path:
    return built_once("clip", write_recipe) / "recipe.yaml"


@pytest.fixture(scope="module")
def ran(epmq: Warm, recipe: Path) -> tuple[Path, Result]:
    return ran_once("clip-ran", epmq, recipe)


def test_both_files_are_as_good_as_the_reference(ran: tuple[Path, Result]) -> None:
    output, result = ran
    assert result.code == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-3:] == [
        "verdict: pass",
        "out/gguf/base-merged-Q4_0.gguf",
        "out/onnx/onnx/vision_model_q4.onnx",
    ]
    assert "WARNING" not in result.stderr
    report = json.loads((output / "report.json").read_text(encoding="utf-8"))
    jsonschema.validate(report, json.loads(SCHEMA.read_text(encoding="utf-8")))
    assert list(report["scores"]) == [
        "base",
        "experts",
        "merged",
        "reference",
        "gguf in clip.cpp",
        "onnx in onnxruntime",
    ]
    gguf, onnx = report["files"]
    assert set(gguf["checks"]["graph"]["by_tower"]) == {
        "base-merged-Q4_0.gguf: clip",
        "base-merged-Q4_0.gguf: clip text",
    }
    assert [Path(each["path"]).name for each in onnx["others"]] == ["text_model_q4.onnx", "model_q4.onnx"]
    assert len(onnx["checks"]["graph"]["by_tower"]) == 4
    # Six linears a layer of the image tower, two of the text tower, and both again in the joint model.
    assert onnx["notes"] == {"linears": 2 * (6 + 2) * LAYERS, "fused": 2 * (6 + 2) * LAYERS}


def test_only_the_image_tower_moves(ran: tuple[Path, Result], recipe: Path) -> None:
    packed, base = Packed(ran[0] / "packed"), load_file(recipe.parent / "base" / "model.safetensors")
    moved = set()
    for name in packed.names():
        value = packed.tensor(name)
        if isinstance(value, PackedTensor):
            assert (value.grid.name == "Q8_0") == name.startswith("text_model.")
        elif not np.array_equal(value.float().numpy(), base[name].to(value.dtype).float().numpy()):
            moved.add(name)
    assert "vision_model.embeddings.patch_embedding.weight" in moved  # merged, if not calibrated
    assert all(name.startswith("vision_model.") for name in moved)


def test_merge_leaves_the_text_tower(tmp_path: Path, epmq: Warm, recipe: Path) -> None:
    place = tmp_path / "merge.yaml"
    base, expert = recipe.parent / "base", recipe.parent / "first"
    place.write_text(
        yaml.safe_dump(
            {"base_model": str(base), "merge_method": "task_arithmetic", "models": [{"model": str(expert)}]}
        )
    )
    result = epmq("merge", place, "-o", "merged", folder=tmp_path)
    assert result.code == 0, result.stderr
    ours, theirs = (load_file(directory / "model.safetensors") for directory in (tmp_path / "merged", base))
    assert ours.keys() == theirs.keys()
    changed = {name for name in ours if not np.array_equal(ours[name].numpy(), theirs[name].numpy())}
    assert changed and all(name.startswith("vision_model.") for name in changed)


def test_evaluate_takes_either_file(
    ran: tuple[Path, Result], epmq: Warm, recipe: Path, tmp_path: Path
) -> None:
    report = json.loads((ran[0] / "report.json").read_text(encoding="utf-8"))
    for row, path in (
        ("gguf in clip.cpp", "gguf/base-merged-Q4_0.gguf"),
        ("onnx in onnxruntime", "onnx/onnx/vision_model_q4.onnx"),
    ):
        result = epmq("evaluate", ran[0] / path, "--recipe", recipe, "--json", folder=tmp_path)
        assert result.code == 0, result.stderr
        assert json.loads(result.stdout)["model"] == pytest.approx(report["scores"][row])


def test_a_file_of_one_tower_gone_is_a_broken_check(
    ran: tuple[Path, Result], epmq: Warm, recipe: Path, tmp_path: Path
) -> None:
    shutil.copytree(ran[0], tmp_path / "out")
    (tmp_path / "out" / "onnx" / "onnx" / "text_model_q4.onnx").unlink()
    result = epmq("verify", "out", "--recipe", recipe, folder=tmp_path)
    assert result.code == 1 and "text_model_q4.onnx" in result.stderr and "Traceback" not in result.stderr
