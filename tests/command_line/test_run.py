"""The commands as scripts use them: what they leave, what they say, and their exit codes."""

import json
import shutil
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from epmq_export import files
from epmq_export.tensors.packed import Packed
from epmq_export.verification.report import SCHEMA
from tests.command_line.command import Result, Warm, tree
from tests.publishing.html_page import Page
from tests.tiny.built_once import built_once
from tests.tiny.recipe_project import Project

TOLD = ("report.json", "report.html", "README.md")
"""What a run tells, beside the files that it makes."""


def report(output: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((output / "report.json").read_text(encoding="utf-8"))
    jsonschema.validate(content, json.loads(SCHEMA.read_text(encoding="utf-8")))
    return content


@pytest.fixture(scope="module")
def staged(epmq: Warm, project: Project) -> Path:
    """The same recipe by its stages: merge, calibrate, export."""

    def build(folder: Path) -> None:
        for arguments in (
            ("merge", project.recipe, "-o", "merged"),
            ("calibrate", project.recipe, "-o", "out/packed"),
            ("export", "out/packed", "-o", "out"),
        ):
            result = epmq(*arguments, folder=folder)
            assert result.code == 0, result.stderr

    return built_once("staged", build)


def test_run_leaves_what_the_contract_says(ran: tuple[Path, Result], project: Project) -> None:
    output, result = ran
    assert {path.name for path in output.iterdir()} == {"packed", "gguf", "onnx", *TOLD}
    onnx = {
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "1_Pooling/config.json",
        "onnx/model_q4.onnx",
    }
    assert set(tree(output / "onnx")) == onnx
    assert set(tree(output / "gguf")) == {"base-merged-Q4_0.gguf"}
    assert result.stdout.splitlines()[-3:] == [
        "verdict: pass",
        "out/gguf/base-merged-Q4_0.gguf",
        "out/onnx/onnx/model_q4.onnx",
    ]
    assert "Traceback" not in result.stderr and "WARNING" not in result.stderr

    found = report(output)
    assert found["verdict"] == "pass" and not found["broken"]
    assert found["tasks"] == ["list", "mapping", "file", "unlabelled"]
    assert set(found["scores"]) == {
        "base",
        "experts",
        "merged",
        "reference",
        "gguf in llama.cpp",
        "onnx in onnxruntime",
    }
    for row in found["scores"].values():
        assert row["average"] == pytest.approx(sum(row[task] for task in found["tasks"]) / 4)
    assert found["scores"]["experts"]["unlabelled"] == pytest.approx(1)
    assert min(found["scores"]["reference"].values()) > 0.8  # else a broken file would have nothing to lose
    for file, path in zip(
        found["files"], ("gguf/base-merged-Q4_0.gguf", "onnx/onnx/model_q4.onnx"), strict=True
    ):
        assert (
            file["sha256"] == files.sha256(output / path) and file["bytes"] == (output / path).stat().st_size
        )
        tasks = file["checks"]["tasks"]
        assert tasks["by_task"]["unlabelled"]["distance"]["mean"]["upper"] < 0.02
        assert [group["key"] for group in tasks["pooled"]] == ["verify.tasks", "verify.agreement"]
    assert found["files"][0]["checks"]["codes"]["decoded_by_runtime"] == 19  # with the embeddings
    assert found["files"][1]["notes"] == {"linears": 18, "fused": 18}
    assert {layer["tensor"] for layer in found["layers"] if layer["grid"] == "Q4_0"} == {
        name for name, grid in Packed(output / "packed").grids.items() if grid.name == "Q4_0"
    }
    assert found["recipe"]["file"] == {"path": str(project.recipe), "sha256": files.sha256(project.recipe)}
    hashed = {entry["path"]: entry["sha256"] for entry in found["inputs"]}
    for path in (
        "base/model.safetensors",
        "sharded/model-00002-of-00004.safetensors",
        "adapter/adapter_model.safetensors",
        "data/0.txt",
        "data/2.labels.json",
    ):
        assert hashed[path] == files.sha256(project.directory / path)
    assert set(found["seconds"]) == {
        "calibrate",
        "write gguf",
        "write onnx",
        "score the references",
        "verify",
    }


def test_the_report_tells_what_each_tensor_takes(ran: tuple[Path, Result]) -> None:
    """Compare it with what the GGUF file says of itself."""
    found = report(ran[0])
    taken: dict[str, int] = {}
    for tensor in found["tensors"]:
        taken[tensor["storage"]] = taken.get(tensor["storage"], 0) + tensor["bytes"]
    (gguf,) = (file for file in found["files"] if file["format"] == "gguf")
    assert taken == gguf["notes"]["tensor_bytes"]


def test_report_makes_the_page_again(ran: tuple[Path, Result], epmq: Warm, tmp_path: Path) -> None:
    page = (ran[0] / "report.html").read_text(encoding="utf-8")
    assert Page(page).faults == [] and "gguf in llama.cpp" in page
    for name in ("out", "other"):
        (tmp_path / name).mkdir()
        shutil.copy(ran[0] / "report.json", tmp_path / name)
    result = epmq("report", "out", folder=tmp_path)
    assert (result.code, result.stdout) == (0, "out/report.html\n"), result.stderr
    assert (tmp_path / "out" / "report.html").read_text(encoding="utf-8") == page
    assert epmq("report", "out", "other", folder=tmp_path).stdout == "out/comparison.html\n"
    both = Page((tmp_path / "out" / "comparison.html").read_text(encoding="utf-8"))
    assert both.faults == [] and "A: out" in both.text and "B: other" in both.text
    result = epmq("report", "none", folder=tmp_path)
    assert (result.code, result.stderr) == (3, "error: none/report.json: no such file\n")
    (tmp_path / "none").touch()  # A file, in which nothing lies.
    result = epmq("report", "none", folder=tmp_path)
    assert (result.code, result.stderr) == (3, "error: none/report.json: no such file\n")


def test_the_same_recipe_gives_the_same_bytes(ran: tuple[Path, Result], staged: Path) -> None:
    for part in ("packed", "gguf", "onnx"):
        assert tree(ran[0] / part) == tree(staged / "out" / part)


def test_verify_judges_by_the_recipe_that_the_report_names(
    ran: tuple[Path, Result], epmq: Warm, tmp_path: Path
) -> None:
    result = epmq("verify", ran[0], "--json", "again/report.json", folder=tmp_path)
    assert result.code == 0, result.stderr
    first, again = report(ran[0]), report(tmp_path / "again")
    assert {path.name for path in (tmp_path / "again").iterdir()} == {"report.json", "report.html"}
    assert again["scores"] == first["scores"]
    assert [file["checks"] for file in again["files"]] == [file["checks"] for file in first["files"]]


def test_resume_of_a_finished_calibration_writes_and_judges_only(
    ran: tuple[Path, Result], project: Project, epmq: Warm, tmp_path: Path
) -> None:
    recipe = project.variant(tmp_path / "recipe.yaml", export={"formats": ["gguf"]})
    assert epmq("run", recipe, "-o", "out", folder=tmp_path).code == 0
    packed = tree(tmp_path / "out" / "packed")
    shutil.rmtree(tmp_path / "out" / "gguf")
    for left in (".packed.epmq-lock", ".packed.epmq-1.partial"):  # By one that was killed at the very end.
        (tmp_path / "out" / left).write_text("1")
    result = epmq("run", recipe, "-o", "out", "--resume", folder=tmp_path)
    assert result.code == 0, result.stderr
    assert "calibrate:" not in result.stderr
    assert tree(tmp_path / "out" / "packed") == packed
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"packed", "gguf", *TOLD}
    # another recipe's calibration is not taken for this one's
    other = epmq(
        "run",
        project.variant(tmp_path / "other.yaml", calibration={"samples": 8}),
        "-o",
        "out",
        "--resume",
        folder=tmp_path,
    )
    assert other.code == 2 and "out/packed was made with another recipe" in other.error
    assert tree(tmp_path / "out" / "packed") == packed


def test_merge_writes_what_transformers_loads(staged: Path, ran: tuple[Path, Result]) -> None:
    model = AutoModel.from_pretrained(staged / "merged")
    stored = load_file(staged / "merged" / "model.safetensors")
    for name, value in model.state_dict().items():
        assert torch.equal(value, stored[name]), name
    assert (staged / "merged" / "README.md").read_text(encoding="utf-8").startswith("---\n")
    assert (staged / "merged" / "tokenizer.json").read_bytes() == (
        ran[0] / "packed" / "tokenizer.json"
    ).read_bytes()


@pytest.mark.parametrize(
    ("model", "row"),
    [
        ("base", "base"),
        ("merged", "merged"),
        ("out/packed", "reference"),
        ("out/gguf/base-merged-Q4_0.gguf", "gguf in llama.cpp"),
        ("out/onnx/onnx/model_q4.onnx", "onnx in onnxruntime"),
        ("out/onnx", "onnx in onnxruntime"),
    ],
)
def test_evaluate_gives_the_scores_of_the_report(
    model: str, row: str, staged: Path, ran: tuple[Path, Result], project: Project, epmq: Warm, tmp_path: Path
) -> None:
    place = project.directory / model if model == "base" else staged / model
    result = epmq("evaluate", place, "--recipe", project.recipe, "--json", folder=tmp_path)
    assert result.code == 0, result.stderr
    scores = report(ran[0])["scores"]
    found = result.json
    assert found.pop("intervals")["model"] == report(ran[0])["intervals"][row]
    assert found == {"base": scores["base"], "experts": scores["experts"], "model": scores[row]}


def test_evaluate_scores_an_adapter_as_its_expert(
    project: Project, ran: tuple[Path, Result], epmq: Warm, tmp_path: Path
) -> None:
    result = epmq(
        "evaluate", project.directory / "adapter", "--recipe", project.recipe, "--json", folder=tmp_path
    )
    assert result.json["model"]["mapping"] == report(ran[0])["scores"]["experts"]["mapping"]


def test_another_base_with_cls_pooling_and_other_storage(cls_ran: Path) -> None:
    found = report(cls_ran)
    assert found["verdict"] == "pass"
    packed = Packed(cls_ran / "packed")
    kept = {
        name
        for name in packed.names()
        if name.endswith(("intermediate.dense.weight", "layer.0.output.dense.weight"))
    }
    assert len(kept) == 2
    assert {packed.load(name).dtype for name in kept} == {torch.float16}
    assert {grid.name for name, grid in packed.grids.items() if "word_embeddings" in name} == {"Q8_0"}
    assert found["files"][0]["notes"]["tensors"] == {"Q8_0": 1, "Q4_0": 4, "F16": 2, "F32": 14}
    assert found["files"][1]["notes"] == {"linears": 4, "fused": 4}
    assert any("intermediate" in note for note in found["notes"])
    assert [*found["scores"]][:5] == ["base", "experts", "merged", "unrounded", "reference"]
    assert found["scores"]["unrounded"]["only"] > found["scores"]["reference"]["only"]
    assert "calibrate without rounding" in found["seconds"]
    (evaluated,) = found["evaluated"].values()
    assert len(evaluated) == 64


def test_gguf_alone_with_4_bit_embeddings(project: Project, epmq: Warm, tmp_path: Path) -> None:
    settings = {
        "quantization": {"embeddings": "Q4_0"},
        "export": {"formats": ["gguf"]},
        "calibration": {"method": "rtn", "samples": 4},
    }
    recipe = project.variant(tmp_path / "recipe.yaml", **settings)
    result = epmq("run", recipe, "-o", "out", folder=tmp_path)
    assert result.code == 0, result.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"packed", "gguf", *TOLD}
    found = report(tmp_path / "out")
    assert [file["format"] for file in found["files"]] == ["gguf"]
    assert found["files"][0]["notes"]["tensors"]["Q4_0"] == 19
