"""Commands on what is wrong: one sentence and an exit code, and nothing is left behind."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModel

from tests.command_line.command import Result, Warm
from tests.tiny import recipe_project
from tests.tiny.recipe_project import Project


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
    [("gpu9", "expected cpu, cuda or cuda:N"), ("meta", "expected cpu, cuda or cuda:N"), ("cuda:99", "")],
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
    assert say(3, "export", ".", "-o", "out") == (
        ". is no packed checkpoint: it has no packed.json, did you mean 'packed'?"
    )
    assert say(3, "verify", "packed") == (
        "packed: found no packed in it, expected what `epmq run` has left, did you mean '.'?"
    )
    assert say(3, "evaluate", ".", "--recipe", project.recipe) == (
        ".: found several models of a run, expected one of packed"
    )
    for name in ("gguf/m-2.gguf", "gguf/m-1.gguf", "onnx/config.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    assert say(3, "evaluate", ".", "--recipe", project.recipe) == (
        ".: found several models of a run, expected one of gguf/m-1.gguf, onnx, packed"
    )
    assert say(3, "export", project.directory / "base", "-o", "out").endswith(
        "base is no packed checkpoint: it has no packed.json"
    )
    assert say(3, "verify", "nowhere") == "nowhere: no such directory, expected what `epmq run` has left"
    assert say(3, "evaluate", "nowhere", "--recipe", project.recipe) == "nowhere: no such file or directory"


@pytest.mark.parametrize(
    ("command", "merge_method", "limit", "file"),
    [
        ("merge", "tsvm", 100_000, r"out/model\.safetensors"),
        ("calibrate", "task_arithmetic", 20_000, r"\.out\.blocks/embeddings\.safetensors"),
        (
            "calibrate",
            "tsvm",
            20_000,
            r"/.*/epmq-merge-\w+/\d+\.safetensors",
        ),  # a merge that is kept while it is needed
        ("export", "tsvm", 100_000, r"out/gguf/base-merged-Q4_0\.gguf"),
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
        "recipe.yaml",
        "run.json",
        "search.json",
    }
