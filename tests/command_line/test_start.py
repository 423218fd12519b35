"""What a command does not need it does not import. Each runs in a process of its own, which says at its end
which of the costly packages it has imported.
"""

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from epmq_export.installed import registry
from formats.gguf.format import Gguf
from tests import ROOT
from tests.command_line.command import ENVIRONMENT
from tests.tiny import decoder, recipe_project
from tests.tiny.bert import small_bert, small_packed
from tests.tiny.built_once import built_once
from tests.tiny.onnx_encoders import small

COSTLY = {
    *("PIL", "datasets", "huggingface_hub", "jinja2", "matplotlib", "numpy", "onnx", "onnx_ir"),
    *("onnxruntime", "onnxscript", "sympy", "tokenizers", "torch", "torch._dynamo", "torch.onnx"),
    *("transformers", "xllamacpp"),
}
MERGE = {"huggingface_hub", "numpy", "torch"}


class Imports:
    """It says which of the costly packages a command imports, beside those that are imported before."""

    def __init__(self, room: Path, *before: str) -> None:
        command = [sys.executable, "-m", "tests.command_line.import_server", *before]
        self._said = room / "said"
        pipe = subprocess.PIPE
        self._server = subprocess.Popen(
            command, cwd=ROOT, env=ENVIRONMENT, stdin=pipe, stdout=pipe, text=True
        )

    def __call__(self, *arguments: str | Path, code: int = 0, **environment: str) -> set[str]:
        """Run a command, which must end with `code`, perhaps with other variables of the environment."""
        assert self._server.stdin is not None and self._server.stdout is not None
        asked = {"arguments": [*map(str, arguments)], "environment": environment}
        self._server.stdin.write(json.dumps({**asked, "said": str(self._said)}) + "\n")
        self._server.stdin.flush()
        answer: dict[str, Any] = json.loads(self._server.stdout.readline())
        assert answer["code"] == code, self._said.read_text()
        return COSTLY.intersection(answer["imported"])

    def close(self) -> None:
        assert self._server.stdin is not None and self._server.stdout is not None
        self._server.stdin.close()
        self._server.stdout.close()
        assert self._server.wait(timeout=30) == 0


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Imports]:
    """Begin with none of them."""
    imports = Imports(tmp_path_factory.mktemp("imports"))
    yield imports
    imports.close()


@pytest.fixture(scope="module")
def beside_torch(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Imports]:
    """Begin with numpy and torch, which take seconds, and which the command may import."""
    imports = Imports(tmp_path_factory.mktemp("imports"), "numpy", "torch")
    yield imports
    imports.close()


@pytest.fixture(scope="module")
def models(project: recipe_project.Project) -> Path:
    """Return a directory with one model of each kind of file that `inspect` reads, by its kind."""

    def build(place: Path) -> None:
        packed, family = small_packed(place / "packed", small_bert(place / "source"))
        Gguf().write(packed, family, place)
        (place / "directory").symlink_to(project.directory / "base")
        (place / "adapter").symlink_to(project.directory / "adapter")
        (place / "model.onnx").symlink_to(small().path)

    return built_once("start-models", build)


@pytest.mark.parametrize("arguments", [["--help"], ["--version"], ["merge", "--help"]], ids=" ".join)
def test_help_is_words(arguments: list[str], imported: Imports) -> None:
    assert imported(*arguments) == set()


@pytest.mark.parametrize(
    ("file", "needed"),
    [
        ("model-Q4_0.gguf", {"numpy"}),
        ("model.onnx", {"numpy", "onnx"}),
        ("directory/model.safetensors", {"numpy"}),
        ("directory", {"numpy"}),
        ("adapter", {"numpy"}),
    ],
)
def test_inspect_reads_headers(models: Path, file: str, needed: set[str], imported: Imports) -> None:
    assert imported("inspect", models / file) == needed


def test_inspect_reads_a_packed_checkpoint_by_torch_alone(models: Path, beside_torch: Imports) -> None:
    assert beside_torch("inspect", models / "packed") == {"numpy", "torch"}


def test_the_doctor_imports_nothing_that_may_be_broken(imported: Imports, tmp_path: Path) -> None:
    """The processes in which it tries the parts end at once here: tests of its own have them."""
    (tmp_path / "sitecustomize.py").write_text("import os; os._exit(0)")
    assert imported("doctor", PYTHONPATH=str(tmp_path)) == {"huggingface_hub"}


@pytest.mark.parametrize("command", ["merge", "run", "calibrate"])
def test_a_wrong_recipe_is_told_before_a_model_is_thought_of(
    tmp_path: Path, command: str, beside_torch: Imports
) -> None:
    (tmp_path / "recipe.yaml").write_text("base_model: here\nbaes_model: there\n")
    found = beside_torch(command, tmp_path / "recipe.yaml", "-o", tmp_path / "out", code=2)
    assert found == {"numpy", "torch"}


def test_so_is_a_recipe_that_is_not_there(tmp_path: Path, beside_torch: Imports) -> None:
    found = beside_torch("run", tmp_path / "none.yaml", "-o", tmp_path / "out", code=2)
    assert found == {"numpy", "torch"}


def test_what_tells_of_a_run_loads_plots_only_where_a_page_is_made(
    tmp_path: Path, beside_torch: Imports
) -> None:
    """`run` and `verify` import the same before they begin."""
    assert "matplotlib" not in beside_torch("push", tmp_path / "none", "me/it", code=3)


def test_a_merge_needs_no_library_of_models(
    project: recipe_project.Project, tmp_path: Path, beside_torch: Imports
) -> None:
    """Nor a format or a runtime: a full expert and an adapter of a sentence encoder."""
    assert beside_torch("merge", project.recipe, "-o", tmp_path / "out") == MERGE
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_neither_does_a_merge_of_language_models(tmp_path: Path, beside_torch: Imports) -> None:
    base = decoder.write(tmp_path / "base", "llama")
    decoder.write_expert(tmp_path / "expert", base, "llama", 1)
    recipe = {"base_model": "./base", "merge_method": "ties", "models": [{"model": "./expert"}]}
    recipe["parameters"] = {"density": 0.5}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert beside_torch("merge", tmp_path / "recipe.yaml", "-o", tmp_path / "out") == MERGE


def test_the_registry_makes_what_it_is_asked_for() -> None:
    known = registry()
    assert {name: format.name for name, format in known.formats.items()} == {
        name: name for name in known.formats
    }
    assert {name: runtime.name for name, runtime in known.runtimes.items()} == {
        name: name for name in known.runtimes
    }
    assert known.formats["gguf"] is known.formats["gguf"] and "tiff" not in known.formats
    assert set(known.formats) == {"gguf", "onnx", "safetensors"}
    assert {"llama.cpp", "onnxruntime", "onnxruntime-web", "transformers.js"} <= set(known.runtimes)
