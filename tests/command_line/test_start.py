"""What a command does not need it does not import. Each runs in a process of its own, which says at its end
which of the costly packages it has imported.
"""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from epmq_export.installed import registry
from formats.gguf.format import Gguf
from tests import ROOT
from tests.tiny import decoder, recipe_project
from tests.tiny.bert import small_bert, small_packed
from tests.tiny.built_once import built_once
from tests.tiny.onnx_encoders import small

COSTLY = {
    *("PIL", "datasets", "huggingface_hub", "jinja2", "numpy", "onnx", "onnx_ir", "onnxruntime"),
    *("onnxscript", "sympy", "tokenizers", "torch", "torch._dynamo", "torch.onnx", "transformers"),
    "xllamacpp",
}
MERGE = {"huggingface_hub", "numpy", "torch"}


def imported(*arguments: str | Path, code: int = 0) -> set[str]:
    """Return which of the costly packages a command imports. It must end with `code`."""
    program = (
        f"import sys; sys.argv = ['epmq', *{[*map(str, arguments)]!r}]; import cli\n"
        "try: cli.main()\n"
        f"except SystemExit as end: assert (end.code or 0) == {code}, end.code\n"
        f"print(*({COSTLY!r} & sys.modules.keys()), file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return set(done.stderr.splitlines()[-1].split())


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
def test_help_is_words(arguments: list[str]) -> None:
    assert imported(*arguments) == set()


@pytest.mark.parametrize(
    ("file", "needed"),
    [
        ("model-Q4_0.gguf", {"numpy"}),
        ("model.onnx", {"numpy", "onnx"}),
        ("directory/model.safetensors", {"numpy"}),
        ("directory", {"numpy"}),
        ("adapter", {"numpy"}),
        ("packed", {"numpy", "torch"}),
    ],
)
def test_inspect_reads_headers(models: Path, file: str, needed: set[str]) -> None:
    assert imported("inspect", models / file) == needed


def test_the_doctor_imports_nothing_that_may_be_broken() -> None:
    assert imported("doctor") == {"huggingface_hub"}


@pytest.mark.parametrize("command", ["merge", "run", "calibrate"])
def test_a_wrong_recipe_is_told_before_a_model_is_thought_of(tmp_path: Path, command: str) -> None:
    (tmp_path / "recipe.yaml").write_text("base_model: here\nbaes_model: there\n")
    assert imported(command, tmp_path / "recipe.yaml", "-o", tmp_path / "out", code=2) <= {"numpy", "torch"}


def test_so_is_a_recipe_that_is_not_there(tmp_path: Path) -> None:
    found = imported("run", tmp_path / "none.yaml", "-o", tmp_path / "out", code=2)
    assert found <= {"numpy", "torch"}


def test_a_merge_needs_no_library_of_models(project: recipe_project.Project, tmp_path: Path) -> None:
    """Nor a format or a runtime: a full expert and an adapter of a sentence encoder."""
    assert imported("merge", project.recipe, "-o", tmp_path / "out") == MERGE
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_neither_does_a_merge_of_language_models(tmp_path: Path) -> None:
    base = decoder.write(tmp_path / "base", "llama")
    decoder.write_expert(tmp_path / "expert", base, "llama", 1)
    recipe = {"base_model": "./base", "merge_method": "ties", "models": [{"model": "./expert"}]}
    recipe["parameters"] = {"density": 0.5}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert imported("merge", tmp_path / "recipe.yaml", "-o", tmp_path / "out") == MERGE


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
