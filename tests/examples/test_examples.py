"""The programs of examples/ do what they say, on models of a few layers, and the pages of CI are what is."""

import os
import re
import runpy
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from PIL import Image

from epmq_export import errors
from tests import ROOT
from tests.command_line.command import Warm
from tests.command_line.on_path import on_path
from tests.tiny import decoder, recipe_project, vit
from tests.tiny.built_once import built_once

EXAMPLES = ROOT / "examples"


def example(name: str, *arguments: str | Path) -> int:
    """Run the `main` of a program in this process, which saves it the imports."""
    code: Any = runpy.run_path(str(EXAMPLES / name))["main"](*map(str, arguments))
    assert isinstance(code, int)
    return code


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    """Return a folder with a recipe of one task for a sentence encoder, written as GGUF alone."""

    def build(place: Path) -> None:
        base = recipe_project.base(place / "base", width=64, layers=1)
        recipe_project.full_expert(place / "mood", base, 1)
        recipe_project.data(place / "data")
        labels = dict(zip(("c0", "c1", "c2"), recipe_project.label_texts(1), strict=True))
        data = {"calibration": "data/1.txt", "evaluation": "data/1.tsv"}
        recipe = {
            "base_model": "./base",
            "tasks": {"mood": {"expert": "./mood", **data, "labels": labels}},
            "calibration": {"samples": 16},
            "quantization": {"grid": "Q8_0"},
            "export": {"formats": ["gguf"]},
        }
        (place / "recipe.yaml").write_text(yaml.safe_dump(recipe))

    shutil.copytree(built_once("example-texts", build), tmp_path / "texts")
    return tmp_path / "texts"


def test_from_python_and_then_in_ci(texts: Path, epmq: Warm, capsys: pytest.CaptureFixture[str]) -> None:
    """The script goes on from what Python has finished: it calibrates nothing again."""
    out = texts / "out"
    assert example("python_api.py", texts / "recipe.yaml", out) == 0
    said = capsys.readouterr().out
    assert "will write base-merged-Q8_0.gguf" in said or "will write mood-Q8_0.gguf" in said
    assert "calibrate took" in said and "gguf in llama.cpp: " in said and "verdict: " in said
    with on_path(epmq, texts / "bin") as path:
        done = subprocess.run(
            [EXAMPLES / "ci.sh", texts / "recipe.yaml", out],
            env={**os.environ, "PATH": path},
            capture_output=True,
            text=True,
            timeout=300,
        )
    assert done.returncode == 0, done.stderr
    assert "the files may be shipped" in done.stdout and "verdict: " in done.stdout
    assert re.search(r"\.gguf: \d+ bytes, llama\.cpp, sha256 [0-9a-f]{64}", done.stdout)


def test_images(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = vit.vit(tmp_path / "base", "ViTModel")
    vit.expert(tmp_path / "colours", base, 1)
    for part, seed in (("train", 1), ("test", 2)):
        for i, (pixels, label) in enumerate(zip(*vit.pictures(12, seed), strict=True)):
            place = tmp_path / "data" / "colours" / part / "rgb"[label]
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(place / f"{i}.png")
    code = example("images.py", base, tmp_path / "data", tmp_path / "out", tmp_path / "colours")
    said = capsys.readouterr().out
    assert code == 0 and "MB in onnxruntime" in said and "colours: cosine distance " in said
    assert (tmp_path / "out" / "model" / "report.html").is_file()


def test_a_language_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    base = decoder.write(tmp_path / "base", "qwen2")
    decoder.write_expert(tmp_path / "expert", base, "qwen2", 1)
    lines = [f"{line} {other}" for line in decoder.LINES for other in decoder.LINES[:3]]
    (tmp_path / "texts.txt").write_text("\n".join(lines))
    recipe = {
        "base_model": "./base",
        "tasks": {"talk": {"expert": "./expert", "calibration": "texts.txt"}},
        "calibration": {"samples": 8},
        "quantization": {"grid": "Q8_0"},
        "export": {"formats": ["gguf"]},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    assert example("language_model.py", tmp_path / "recipe.yaml", tmp_path / "out") == 0
    said = capsys.readouterr().out
    assert re.search(r"talk: perplexity [\d.]+, reference [\d.]+; KL divergence 0\.0", said)
    assert "serve it: llama-server -m " in said


def test_every_program_is_told_of_and_tried() -> None:
    there = {path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".sh")}
    assert there == set(re.findall(r"^\| \[([\w.]+)\]", (EXAMPLES / "README.md").read_text(), re.M))
    tried = Path(__file__).read_text()
    assert [name for name in there if f'"{name}"' not in tried] == []


def test_the_page_of_ci_has_the_exit_codes_and_a_workflow() -> None:
    text = (ROOT / "docs" / "ci.md").read_text(encoding="utf-8")
    codes = {int(code) for row in re.findall(r"^\| ([\d, ]+) \|", text, re.M) for code in row.split(",")}
    kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
    raised = {kind.exit_code for kind in kinds if issubclass(kind, errors.EpmqError)}
    assert raised <= codes
    (workflow,) = re.findall(r"```yaml\n(.*?)```", text, re.S)
    steps = yaml.safe_load(workflow)["jobs"]["model"]["steps"]
    assert any("epmq run recipe.yaml -o out --resume" in step.get("run", "") for step in steps)
