"""What the data can break is told before the work, with its place, by the dry run as by the run."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

import epmq_export as epmq
from epmq_export.errors import InputError
from tests.tiny import decoder
from tests.tiny.built_once import built_once
from tests.tiny.recipe_project import Project

ORDINARY = [f"the cat sat on {i} things ." for i in range(12)]


def dry_run(recipe: Path) -> None:
    epmq.forecast(recipe)


def calibrate(recipe: Path) -> None:
    epmq.calibrate(recipe, recipe.parent / "out")


@pytest.fixture(scope="module")
def models() -> Path:
    def build(folder: Path) -> None:
        base = decoder.write(folder / "base", "llama")
        decoder.write_expert(folder / "expert", base, "llama", 1, 0.05)

    return built_once("trial-models", build)


@pytest.fixture
def language(models: Path, tmp_path: Path) -> Callable[..., Path]:
    """Write a recipe of a language model and its data."""

    def write(calibration: list[str], evaluation: list[str]) -> Path:
        (tmp_path / "calibration.txt").write_text("\n".join(calibration) + "\n", encoding="utf-8")
        (tmp_path / "evaluation.tsv").write_text("\n".join(evaluation) + "\n", encoding="utf-8")
        places = {"calibration": "calibration.txt", "evaluation": "evaluation.tsv"}
        recipe = {
            "base_model": str(models / "base"),
            "tasks": {"a": {"expert": str(models / "expert"), **places}},
            "calibration": {"samples": 20},
        }
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe), encoding="utf-8")
        return tmp_path / "recipe.yaml"

    return write


@pytest.mark.parametrize("job", [dry_run, calibrate])
@pytest.mark.parametrize(
    ("evaluation", "line"), [([*ORDINARY[:3], "a", *ORDINARY[:3]], 4), (["a", "b"], 1)], ids=["one", "all"]
)
def test_a_text_that_cannot_be_scored(
    job: Callable[[Path], None], evaluation: list[str], line: int, language: Callable[..., Path]
) -> None:
    """One token is none to predict."""
    recipe = language(ORDINARY, evaluation)
    with pytest.raises(InputError) as caught:
        job(recipe)
    assert str(caught.value).startswith(f"{recipe.parent}/evaluation.tsv:{line}: found the passage ")
    assert str(caught.value).endswith("expected a text with tokens to read and to predict")
    assert not (recipe.parent / "out").exists()


@pytest.mark.parametrize("job", [dry_run, calibrate])
@pytest.mark.parametrize(
    ("shape", "said"),
    [
        (
            (3, 64),
            "found a head for outputs that are 64 wide, expected 128, the width of the model of task list",
        ),
        (
            (2, 128),
            r"found weight \[2, 128\] and bias \[2\], expected \[3, width\] and \[3\] for the 3 classes",
        ),
    ],
)
def test_a_head_that_does_not_fit(
    job: Callable[[Path], None], shape: tuple[int, int], said: str, project: Project, tmp_path: Path
) -> None:
    save_file({"weight": torch.ones(shape)}, tmp_path / "head.safetensors")
    recipe = project.one_task(tmp_path / "recipe.yaml", head=str(tmp_path / "head.safetensors"))
    with pytest.raises(InputError, match=f"^{tmp_path}/head.safetensors: {said}"):
        job(recipe)


def test_files_are_tried_beside_data_of_the_hub(models: Path, language: Callable[..., Path]) -> None:
    recipe = language(ORDINARY, ["a"])
    content = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    content["tasks"]["b"] = {"expert": str(models / "expert"), "calibration": {"dataset": "org/absent"}}
    recipe.write_text(yaml.safe_dump(content), encoding="utf-8")
    with pytest.raises(InputError, match=r"evaluation\.tsv:1: found the passage"):
        epmq.forecast(recipe)
