"""The commands as scripts use them: what they leave, what they say, and their exit codes."""

import json
import re
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

import cli
from epmq_export import files
from epmq_export.errors import InputError
from epmq_export.tensors.packed import Packed
from epmq_export.verification.report import SCHEMA
from tests.command_line.command import Result, Warm, start
from tests.tiny import recipe_project
from tests.tiny.built_once import built_once
from tests.tiny.recipe_project import Project


def report(output: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((output / "report.json").read_text(encoding="utf-8"))
    jsonschema.validate(content, json.loads(SCHEMA.read_text(encoding="utf-8")))
    return content


def tree(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes() for path in directory.rglob("*") if path.is_file()
    }


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


# What a run leaves.


def test_run_leaves_what_the_contract_says(ran: tuple[Path, Result], project: Project) -> None:
    output, result = ran
    assert {path.name for path in output.iterdir()} == {"packed", "gguf", "onnx", "report.json"}
    onnx = {
        "config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "1_Pooling/config.json",
        "onnx/model_q4.onnx",
    }
    assert set(tree(output / "onnx")) == onnx
    assert set(tree(output / "gguf")) == {"model.gguf"}
    assert result.stdout.splitlines()[-3:] == [
        "verdict: pass",
        "out/gguf/model.gguf",
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
    for file, path in zip(found["files"], ("gguf/model.gguf", "onnx/onnx/model_q4.onnx"), strict=True):
        assert (
            file["sha256"] == files.sha256(output / path) and file["bytes"] == (output / path).stat().st_size
        )
        assert file["checks"]["tasks"]["agreement"]["unlabelled"] > 0.98
    assert found["files"][0]["checks"]["codes"]["decoded_by_runtime"] == 18
    assert found["files"][1]["notes"] == {"linears": 18, "fused": 18}
    assert {layer["tensor"] for layer in found["layers"] if layer["grid"] == "Q4_0"} == set(
        Packed(output / "packed").grids
    )
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


def test_the_same_recipe_gives_the_same_bytes(ran: tuple[Path, Result], staged: Path) -> None:
    for part in ("packed", "gguf", "onnx"):
        assert tree(ran[0] / part) == tree(staged / "out" / part)


def test_verify_judges_by_the_recipe_that_the_report_names(
    ran: tuple[Path, Result], epmq: Warm, tmp_path: Path
) -> None:
    result = epmq("verify", ran[0], "--json", "again/report.json", folder=tmp_path)
    assert result.code == 0, result.stderr
    first, again = report(ran[0]), report(tmp_path / "again")
    assert again["scores"] == first["scores"]
    assert [file["checks"] for file in again["files"]] == [file["checks"] for file in first["files"]]


def test_resume_of_a_finished_calibration_writes_and_judges_only(
    ran: tuple[Path, Result], project: Project, epmq: Warm, tmp_path: Path
) -> None:
    recipe = project.variant(tmp_path / "recipe.yaml", export={"formats": ["gguf"]})
    assert epmq("run", recipe, "-o", "out", folder=tmp_path).code == 0
    packed = tree(tmp_path / "out" / "packed")
    shutil.rmtree(tmp_path / "out" / "gguf")
    result = epmq("run", recipe, "-o", "out", "--resume", folder=tmp_path)
    assert result.code == 0, result.stderr
    assert "calibrate:" not in result.stderr
    assert tree(tmp_path / "out" / "packed") == packed
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"packed", "gguf", "report.json"}
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
        ("out/gguf/model.gguf", "gguf in llama.cpp"),
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
    assert result.json == {"base": scores["base"], "experts": scores["experts"], "model": scores[row]}


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


def test_gguf_alone_with_4_bit_embeddings(project: Project, epmq: Warm, tmp_path: Path) -> None:
    settings = {
        "quantization": {"embeddings": "Q4_0"},
        "export": {"formats": ["gguf"]},
        "calibration": {"method": "rtn", "samples": 4},
    }
    recipe = project.variant(tmp_path / "recipe.yaml", **settings)
    result = epmq("run", recipe, "-o", "out", folder=tmp_path)
    assert result.code == 0, result.stderr
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"packed", "gguf", "report.json"}
    found = report(tmp_path / "out")
    assert [file["format"] for file in found["files"]] == ["gguf"]
    assert found["files"][0]["notes"]["tensors"]["Q4_0"] == 19


# Wrong things.


@pytest.fixture
def say(epmq: Warm, tmp_path: Path) -> Callable[..., str]:
    """Run a command that must fail: its one sentence. Nothing may be left but what the test itself wrote."""

    def run(code: int, *arguments: str | Path, file_limit: int | None = None) -> str:
        before = set(tmp_path.rglob("*"))
        result = epmq(*arguments, folder=tmp_path, file_limit=file_limit)
        assert result.code == code, result.stderr
        assert result.stdout == ""
        assert set(tmp_path.rglob("*")) - before == set()
        return result.error

    return run


def test_no_recipe(say: Callable[..., str], tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").touch()
    assert (
        say(2, "run", "recipes.yaml", "-o", "out")
        == "recipes.yaml: found no such file, expected a recipe, did you mean 'recipe.yaml'?"
    )


def test_a_key_misspelled(say: Callable[..., str], project: Project, tmp_path: Path) -> None:
    recipe = project.variant(tmp_path / "recipe.yaml", calibratoin={})
    assert (
        "calibratoin: found an unknown key" in (error := say(2, "run", recipe, "-o", "out"))
        and "did you mean 'calibration'?" in error
    )


def test_a_missing_shard(say: Callable[..., str], project: Project, tmp_path: Path) -> None:
    shutil.copytree(project.directory / "sharded", tmp_path / "expert")
    (tmp_path / "expert" / "model-00002-of-00004.safetensors").unlink()
    error = say(
        3, "run", project.one_task(tmp_path / "recipe.yaml", expert=str(tmp_path / "expert")), "-o", "out"
    )
    assert error.startswith(f"{tmp_path}/expert/model.safetensors.index.json: tensor ")
    assert error.endswith("is said to be in model-00002-of-00004.safetensors, but that shard is missing")


def test_a_truncated_expert(say: Callable[..., str], project: Project, tmp_path: Path) -> None:
    shutil.copytree(project.directory / "whole", tmp_path / "expert")
    weights = tmp_path / "expert" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1000])
    error = say(
        3, "run", project.one_task(tmp_path / "recipe.yaml", expert=str(tmp_path / "expert")), "-o", "out"
    )
    assert error.startswith(f"{weights}: not whole and well-formed safetensors")


def test_an_expert_of_another_base(say: Callable[..., str], project: Project, tmp_path: Path) -> None:
    recipe_project.base(tmp_path / "expert", width=64, layers=2)
    recipe = project.one_task(tmp_path / "recipe.yaml", expert=str(tmp_path / "expert"))
    for command in ("run", "merge", "calibrate"):
        error = say(3, command, recipe, "-o", "out")
        assert (
            "does not fit the base: embeddings.LayerNorm.bias has shape [64], the base's has [128]; " in error
        )
        assert error.endswith("more")
    assert "does not fit the base" in say(3, "evaluate", tmp_path / "expert", "--recipe", project.recipe)


def test_an_expert_with_another_vocabulary(say: Callable[..., str], project: Project, tmp_path: Path) -> None:
    words = list(recipe_project.VOCABULARY)
    words[300], words[301] = words[301], words[300]
    recipe_project.full_expert(tmp_path / "expert", project.directory / "base", 5, vocabulary=words)
    error = say(
        3, "run", project.one_task(tmp_path / "recipe.yaml", expert=str(tmp_path / "expert")), "-o", "out"
    )
    assert "has another vocabulary than the base: token" in error and repr(words[300]) in error
    assert "another vocabulary" in say(3, "evaluate", tmp_path / "expert", "--recipe", project.recipe)


def test_an_expert_as_a_pickle(say: Callable[..., str], project: Project, tmp_path: Path) -> None:
    shutil.copytree(project.directory / "whole", tmp_path / "expert")
    torch.save(
        load_file(tmp_path / "expert" / "model.safetensors"), tmp_path / "expert" / "pytorch_model.bin"
    )
    (tmp_path / "expert" / "model.safetensors").unlink()
    error = say(
        3, "run", project.one_task(tmp_path / "recipe.yaml", expert=str(tmp_path / "expert")), "-o", "out"
    )
    assert (
        "pytorch_model.bin is a pickle, which can run any program when it is opened, so it is refused"
        in error
    )


def test_an_expert_with_a_number_that_is_none(
    say: Callable[..., str], project: Project, tmp_path: Path
) -> None:
    expert = recipe_project.full_expert(tmp_path / "expert", project.directory / "base", 5)
    model = AutoModel.from_pretrained(expert)
    with torch.no_grad():
        model.encoder.layer[1].output.dense.weight[3, 3] = torch.nan
    model.save_pretrained(expert)
    error = say(3, "calibrate", project.one_task(tmp_path / "recipe.yaml", expert=str(expert)), "-o", "out")
    assert "tensor encoder.layer.1.output.dense.weight has 1 values that are no finite float32" in error


def test_no_text_to_calibrate_on(say: Callable[..., str], project: Project, tmp_path: Path) -> None:
    (tmp_path / "empty.txt").write_text("\n \n")
    error = say(
        3,
        "run",
        project.one_task(tmp_path / "recipe.yaml", calibration=str(tmp_path / "empty.txt")),
        "-o",
        "out",
    )
    assert error == f"{tmp_path}/empty.txt: found no text, expected at least one line"


def test_a_label_that_is_not_in_the_list(say: Callable[..., str], project: Project, tmp_path: Path) -> None:
    (tmp_path / "lines.tsv").write_text("good\ta text\ngoood\tanother\n")
    recipe = project.one_task(
        tmp_path / "recipe.yaml", evaluation=str(tmp_path / "lines.tsv"), labels=["good", "bad"]
    )
    error = say(3, "run", recipe, "-o", "out")
    assert error == (
        f"{tmp_path}/lines.tsv:2: found the label 'goood', expected one of the task's 2 labels (good, "
        "bad), did you mean 'good'?"
    )


@pytest.mark.parametrize("command", ["run", "merge", "calibrate", "export"])
def test_an_output_that_cannot_be(
    command: str, say: Callable[..., str], project: Project, ran: tuple[Path, Result], tmp_path: Path
) -> None:
    """Under a file, which not even root can write."""
    (tmp_path / "file").touch()
    source = ran[0] / "packed" if command == "export" else project.recipe
    error = say(3, command, source, "-o", "file/out")
    assert error.startswith("file") and "no directory can be made there" in error


@pytest.mark.parametrize("command", ["run", "merge", "calibrate", "export"])
def test_an_output_that_exists(
    command: str, say: Callable[..., str], project: Project, ran: tuple[Path, Result], tmp_path: Path
) -> None:
    source = ran[0] / "packed" if command == "export" else project.recipe
    taken = tmp_path / "out" / "gguf"
    taken.mkdir(parents=True)
    (taken / "mine").write_text("precious")
    error = say(2, command, source, "-o", "out")
    assert (
        error.startswith("out/gguf exists: " if command == "export" else "out exists: ")
        and "--overwrite" in error
    )
    assert (taken / "mine").read_text() == "precious"


def test_an_empty_output_is_as_good_as_none(epmq: Warm, project: Project, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    assert epmq("merge", project.recipe, "-o", "out", folder=tmp_path).code == 0
    assert (tmp_path / "out" / "model.safetensors").exists()


@pytest.mark.parametrize(
    ("device", "reason"),
    [("gpu9", "Invalid device string"), ("meta", "expected cpu, cuda or cuda:N"), ("cuda:99", "")],
)
def test_a_device_that_is_not_there(
    device: str, reason: str, say: Callable[..., str], project: Project
) -> None:
    error = say(2, "run", project.recipe, "-o", "out", "--device", device)
    assert error.startswith(f"--device {device}: ") and reason in error


def test_a_format_that_is_none(epmq: Warm, ran: tuple[Path, Result], tmp_path: Path) -> None:
    result = epmq("export", ran[0] / "packed", "-o", "out", "--format", "ggml", folder=tmp_path)
    assert (
        result.code == 2
        and "'ggml' is not one of 'gguf', 'onnx'" in result.stderr
        and "Traceback" not in result.stderr
    )
    assert not (tmp_path / "out").exists()


def test_models_that_are_none(say: Callable[..., str], project: Project, tmp_path: Path) -> None:
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / "packed.json").write_text('{"format": "epmq-packed-1"}')
    unnamed = "packed/packed.json: key family is missing, expected the name of a family"
    assert say(3, "export", "packed", "-o", "out") == unnamed
    assert say(3, "verify", ".") == unnamed
    assert say(3, "export", project.directory / "base", "-o", "out").endswith(
        "base is no packed checkpoint: it has no packed.json"
    )
    assert say(3, "verify", "nowhere") == "nowhere/packed is no packed checkpoint: it has no packed.json"
    assert say(3, "evaluate", "nowhere", "--recipe", project.recipe) == "nowhere: no such file or directory"


@pytest.mark.parametrize(
    ("command", "merge_method", "limit", "file"),
    [
        ("merge", "tsvm", 100_000, "out"),
        ("calibrate", "task_arithmetic", 20_000, r"\.out\.blocks/embeddings\.safetensors"),
        (
            "calibrate",
            "tsvm",
            20_000,
            r"/.*/epmq-merge-\w+/\d+\.safetensors",
        ),  # a merge that is kept while it is needed
        ("export", "tsvm", 100_000, r"out/gguf/model\.gguf"),
    ],
)
def test_a_full_disk(
    command: str,
    merge_method: str,
    limit: int,
    file: str,
    epmq: Warm,
    project: Project,
    ran: tuple[Path, Result],
    tmp_path: Path,
) -> None:
    """A limit on a file's size fails a write as a full disk does."""
    recipe = project.variant(tmp_path / "recipe.yaml", merge_method=merge_method)
    source = ran[0] / "packed" if command == "export" else recipe
    result = epmq(
        command,
        source,
        "-o",
        "out",
        *(("--format", "gguf") if command == "export" else ()),
        folder=tmp_path,
        file_limit=limit,
    )
    assert result.code == 3
    assert re.match(rf"{file}: cannot be written \(", result.error), result.error
    assert {path.name for path in tmp_path.rglob("*") if path.is_file()} <= {
        "fingerprint",
        "recipe.yaml",
        "search.json",
    }


# Interruption.


def interrupted(command: str, project: Project, folder: Path, blocks: Path) -> Result:
    """Ctrl-C once the first block is finished."""
    process = start(command, project.recipe, "-o", "out", folder=folder)
    try:
        deadline = time.monotonic() + 120
        while not (blocks / "embeddings.safetensors").exists():
            assert process.poll() is None and time.monotonic() < deadline
            time.sleep(0.005)
        process.send_signal(signal.SIGINT)
        stdout, stderr = process.communicate(timeout=60)
    finally:
        process.kill()
    return Result(process.returncode, stdout, stderr)


def test_an_interrupted_calibration_goes_on_to_the_same_bytes(
    project: Project, ran: tuple[Path, Result], epmq: Warm, tmp_path: Path
) -> None:
    blocks = tmp_path / ".out.blocks"
    result = interrupted("calibrate", project, tmp_path, blocks)
    assert result.code == 130
    assert result.stdout == ""
    assert result.error.startswith("interrupted; nothing half-written was left")
    assert not (tmp_path / "out").exists() and not list(blocks.glob(".*"))
    kept = tree(blocks)
    assert "embeddings.safetensors" in kept and "encoder.layer.2.safetensors" not in kept

    other = project.variant(tmp_path / "other.yaml", calibration={"samples": 8})
    refused = epmq("calibrate", other, "-o", "out", "--resume", folder=tmp_path)
    assert refused.code == 2 and "the interrupted run had another recipe" in refused.error
    assert tree(blocks) == kept

    finished = epmq("calibrate", project.recipe, "-o", "out", "--resume", folder=tmp_path)
    assert finished.code == 0, finished.stderr
    assert tree(tmp_path / "out") == tree(ran[0] / "packed")
    assert not blocks.exists()


def test_an_interrupted_run_leaves_its_blocks_alone(project: Project, tmp_path: Path) -> None:
    result = interrupted("run", project, tmp_path, tmp_path / "out" / ".packed.blocks")
    assert result.code == 130 and len(result.stderr.splitlines()) == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".packed.blocks"]


@pytest.mark.parametrize(
    "error",
    [
        ValueError("could not determine the shape"),
        InputError("w.safetensors: cannot be read"),
        SystemExit(130),
    ],
)
def test_an_interrupt_is_told_as_one_whatever_a_library_makes_of_it(
    error: BaseException, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def app() -> None:
        try:
            signal.raise_signal(signal.SIGINT)
        except KeyboardInterrupt:
            raise error from None

    monkeypatch.setattr(cli, "app", app)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(SystemExit) as exit:
            cli.main()
    finally:
        signal.signal(signal.SIGINT, before)
    assert exit.value.code == 130
    assert capsys.readouterr().err.startswith("error: interrupted; nothing half-written was left")
