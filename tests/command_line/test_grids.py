"""Runs on other grids than the default: of one file's own, by pattern, and by a budget."""

import json
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import torch
import yaml
from safetensors.torch import load_file
from transformers import AutoModel

from epmq_export.tensors.packed import Packed
from epmq_export.verification.report import SCHEMA
from tests.command_line.command import Warm
from tests.tiny.built_once import built_once
from tests.tiny.recipe_project import Project

QUERY = "encoder.layer.1.attention.self.query.weight"


def report(output: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((output / "report.json").read_text(encoding="utf-8"))
    jsonschema.validate(content, json.loads(SCHEMA.read_text(encoding="utf-8")))
    return content


@pytest.fixture(scope="module")
def apart(epmq: Warm, project: Project) -> Path:
    """The folder in which GGUF is written on a K-quant, which ONNX cannot hold."""

    def build(folder: Path) -> None:
        quantization = {
            "grid": "Q4_K",
            "onnx_grid": "Q4_1Z",
            "embeddings": "Q6_K",
            "overrides": {"*.query.weight": "Q8_0"},
        }
        recipe = project.variant(folder / "recipe.yaml", quantization=quantization)
        result = epmq("run", recipe, "-o", "out", folder=folder)
        assert result.code == 0, result.stderr
        assert "ONNX cannot hold Q4_K: Q4_1Z stands in for it" in result.stderr

    return built_once("apart", build)


def test_each_file_is_held_against_its_own_codes(apart: Path) -> None:
    output = apart / "out"
    kinds = {
        place: Counter(grid.name for grid in Packed(output / place).grids.values())
        for place in ("packed", "packed-onnx")
    }
    # 128 inputs are no multiple of 256: only the second half of each feed-forward fits.
    assert kinds == {"packed": {"Q4_K": 3, "IQ4_NL": 12, "Q8_0": 4}, "packed-onnx": {"Q4_1Z": 15, "Q8_0": 4}}
    found = report(output)
    assert [Path(file["packed"]).name for file in found["files"]] == ["packed", "packed-onnx"]
    assert (
        all(file["checks"]["codes"]["equal"] for file in found["files"])
        and found["files"][0]["checks"]["codes"]["decoded_by_runtime"] == 19
    )
    assert found["files"][1]["notes"] == {"linears": 18, "fused": 18}
    assert f"{QUERY} is stored on Q8_0, as '*.query.weight' asks" in found["notes"]
    assert (
        "encoder.layer.1.attention.self.key.weight is stored on IQ4_NL: its 128 inputs are no multiple of "
        "Q4_K's group of 256"
    ) in found["notes"]
    assert (
        "ONNX cannot hold Q4_K: Q4_1Z stands in for it" in found["onnx"]["notes"]
        and len(found["onnx"]["layers"]) == 18
    )
    assert {"gguf in llama.cpp", "onnx in onnxruntime"} < set(found["scores"])


def test_verify_finds_both_packed_checkpoints(apart: Path, epmq: Warm, tmp_path: Path) -> None:
    assert epmq("verify", apart / "out", folder=tmp_path).code == 0
    shutil.copytree(apart / "out", tmp_path / "out", ignore=shutil.ignore_patterns("packed-onnx"))
    result = epmq("verify", "out", folder=tmp_path)
    assert result.code == 1 and "found grid Q4_1Z" in result.stdout


def test_a_checkpoint_for_gguf_is_not_written_as_onnx(apart: Path, epmq: Warm, tmp_path: Path) -> None:
    result = epmq("export", apart / "out" / "packed", "-o", "again", "--format", "onnx", folder=tmp_path)
    assert result.code == 3 and "which ONNX cannot hold, expected one of Q4_0, Q8_0, Q4_1Z" in result.error
    # What ONNX holds, GGUF holds as well.
    assert epmq("export", apart / "out" / "packed-onnx", "-o", "both", folder=tmp_path).code == 0


def _gguf(folder: Path) -> str:
    """Return the path of the only GGUF file of a run: its name tells the type of most matrices."""
    (path,) = (folder / "out" / "gguf").glob("base-merged-*.gguf")
    return f"gguf/{path.name}"


def test_inspect_names_the_grids(apart: Path, epmq: Warm) -> None:
    for file, kinds in (
        ("packed", {"Q4_K", "IQ4_NL", "Q8_0", "F32"}),
        ("packed-onnx", {"Q4_1Z", "Q8_0", "F32"}),
        (_gguf(apart), {"Q4_K", "IQ4_NL", "Q8_0", "F32"}),
    ):
        assert set(epmq("inspect", f"out/{file}", "--json", folder=apart).json["types"]) == kinds
    types = set(epmq("inspect", "out/onnx/onnx/model_q4.onnx", "--json", folder=apart).json["types"])
    assert {"UINT4", "INT8", "FLOAT"} <= types


def test_a_budget_is_spent_and_told(epmq: Warm, project: Project, tmp_path: Path) -> None:
    recipe = project.variant(
        tmp_path / "recipe.yaml", quantization={"bits": 5.5}, export={"formats": ["gguf"]}
    )
    result = epmq("run", recipe, "-o", "out", folder=tmp_path)
    assert result.code == 0, result.stderr
    (note,) = report(tmp_path / "out")["notes"]
    assert note.startswith("5.5 bits a weight: ") and note in result.stderr
    sizes = epmq("inspect", f"out/{_gguf(tmp_path)}", "--json", folder=tmp_path).json["tensors"]
    linears = [
        tensor
        for tensor in sizes
        if ".weight" in tensor["name"] and "blk." in tensor["name"] and tensor["type"] != "F32"
    ]
    spent = sum(8 * tensor["bytes"] for tensor in linears) / sum(
        tensor["shape"][0] * tensor["shape"][1] for tensor in linears
    )
    assert len({tensor["type"] for tensor in linears}) > 1 and 5.2 < spent <= 5.5
    assert not (tmp_path / "out" / "packed-onnx").exists()


def test_a_pattern_that_matches_nothing_is_named(epmq: Warm, project: Project, tmp_path: Path) -> None:
    recipe = project.variant(tmp_path / "recipe.yaml", quantization={"overrides": {"*.nothing": "Q8_0"}})
    result = epmq("calibrate", recipe, "-o", "packed", folder=tmp_path)
    assert (
        result.code == 2
        and "quantization.overrides.*.nothing: found '*.nothing', which matches no linear" in result.error
    )


def test_a_calibrated_merge_in_full_precision(epmq: Warm, project: Project, tmp_path: Path) -> None:
    """RegMean's merge, as transformers reads it; `quantization` counts for nothing."""
    recipe = project.variant(
        tmp_path / "recipe.yaml", calibration={"method": "regmean", "samples": 16}, quantization={"bits": 5.5}
    )
    result = epmq("calibrate", recipe, "-o", "merged", "--format", "safetensors", folder=tmp_path)
    assert result.code == 0, result.stderr
    index = json.loads((tmp_path / "merged" / "packed.json").read_text())
    assert (
        index["grids"] == {}
        and index["notes"] == []
        and all(layer["grid"] == "F32" for layer in index["layers"])
    )
    model = AutoModel.from_pretrained(tmp_path / "merged", add_pooling_layer=False)
    stored = load_file(tmp_path / "merged" / "model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float32}
    assert all(torch.equal(value, stored[name]) for name, value in model.state_dict().items())
    scores = epmq("evaluate", "merged", "--recipe", recipe, "--json", folder=tmp_path).json
    assert scores["model"]["average"] > 0
    exported = epmq("export", "merged", "-o", "out", folder=tmp_path)
    assert exported.code == 0 and exported.stdout.splitlines() == [
        "out/gguf/base-merged-F32.gguf",
        "out/onnx/onnx/model.onnx",
    ]
    assert epmq("evaluate", "out/onnx", "--recipe", recipe, "--json", folder=tmp_path).json[
        "model"
    ] == pytest.approx(scores["model"], abs=0.02)


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"refine": True}, "calibration.refine: found it set,"),
        ({"effort": "best"}, "calibration.effort: found 'best', which asks for refine,"),
    ],
)
def test_what_is_not_on_a_grid_cannot_be_refined(
    epmq: Warm, project: Project, tmp_path: Path, asked: dict[str, object], told: str
) -> None:
    recipe = project.variant(tmp_path / "recipe.yaml", calibration={"samples": 16, **asked})
    result = epmq("calibrate", recipe, "-o", "merged", "--format", "safetensors", folder=tmp_path)
    assert result.code == 2 and f"{told} expected it left out for safetensors" in result.error


@pytest.mark.parametrize(
    ("calibration", "quantization", "error"),
    [
        (
            {"samples": 16},
            {"bits": 3},
            (
                "quantization.bits: found 3, expected at least 4.0313: the fewest a weight that the linears' "
                "grids take"
            ),
        ),
        (
            {"samples": 3, "tune": True},
            {},
            "task list: tune holds out one sample in 4 and found 3; raise calibration.samples",
        ),
    ],
)
def test_what_is_sure_to_fail_fails_before_the_work(
    epmq: Warm,
    project: Project,
    tmp_path: Path,
    calibration: dict[str, Any],
    quantization: dict[str, Any],
    error: str,
) -> None:
    recipe = project.variant(
        tmp_path / "recipe.yaml",
        calibration=calibration,
        quantization=quantization,
        export={"formats": ["gguf"]},
    )
    result = epmq("run", recipe, "-o", "out", folder=tmp_path)
    assert result.code != 0 and error in result.error and "layer.0" not in result.stderr


def test_too_few_texts_to_refine_on_fail_before_the_work(
    epmq: Warm, project: Project, tmp_path: Path
) -> None:
    (tmp_path / "few.txt").write_text("one\ntwo\nthree\nfour\nfive\nsix\nseven\n", encoding="utf-8")
    recipe = project.one_task(tmp_path / "recipe.yaml", calibration=str(tmp_path / "few.txt"))
    content = yaml.safe_load(recipe.read_text())
    content["calibration"] = {"samples": 7, "refine": True}
    recipe.write_text(yaml.safe_dump(content))
    result = epmq("run", recipe, "-o", "out", folder=tmp_path)
    told = "task list: refine holds out one sample in 8 and found 7; raise calibration.samples"
    assert result.code != 0 and told in result.error and "layer.0" not in result.stderr
