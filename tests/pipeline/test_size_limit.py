"""`quantization.size`: the largest files that are within it, and the smallest that a refusal names."""

import re
from pathlib import Path

import pytest
import yaml

import epmq_export
from epmq_export.errors import RecipeError
from tests.tiny import recipe_project
from tests.tiny.built_once import built_once


@pytest.fixture
def inputs() -> Path:
    def build(place: Path) -> None:
        base = recipe_project.base(place / "base", width=64, layers=2)
        recipe_project.full_expert(place / "expert", base, 1)
        recipe_project.data(place / "data")

    return built_once("size-limit", build)


def written(inputs: Path, folder: Path, **quantization: object) -> Path:
    recipe = {
        "base_model": str(inputs / "base"),
        "tasks": {"only": {"expert": str(inputs / "expert"), "calibration": str(inputs / "data" / "1.txt")}},
        "calibration": {"samples": 4, "method": "gptq"},
        "quantization": quantization,
        "export": {"formats": ["gguf"]},
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    return folder / "recipe.yaml"


def size_of(recipe: Path, folder: Path) -> tuple[int, set[str]]:
    """Return the bytes of the GGUF file of a recipe, and the grids that its linears are on."""
    packed = epmq_export.calibrate(recipe, folder / "packed", format="gguf")
    (file,) = epmq_export.export(packed, folder / "out", formats=["gguf"])
    return file.stat().st_size, {str(layer["grid"]) for layer in packed.index.layers}


def test_a_file_is_as_large_as_it_may_be(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(
        RecipeError, match=r"quantization\.size: found 1K, expected at least \d+K, which GGUF"
    ):
        epmq_export.forecast(written(inputs, tmp_path, size="1K"))
    with pytest.raises(
        RecipeError, match=r"quantization\.size: found 1KB, expected at least (\d+)K"
    ) as refused:
        epmq_export.calibrate(written(inputs, tmp_path, size="1KB"), tmp_path / "never", format="gguf")
    least = int(re.findall(r"at least (\d+)K", str(refused.value))[0])
    asked = least + 12
    recipe = written(inputs, tmp_path, size=f"{asked}KB")
    planned = epmq_export.forecast(recipe)
    assert set(planned.grids["gguf"].values()) == {f"grids by measured loss, in files of at most {asked}KB"}
    assert planned.time is not None and planned.time.calibrations == (2, 2)
    taken, grids = size_of(recipe, tmp_path)
    assert len(grids) > 1 and 1000 * (asked - 8) < taken <= 1000 * asked


def test_the_smallest_size_that_is_named_is_reached(inputs: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeError) as refused:
        epmq_export.forecast(written(inputs, tmp_path, size="1K"))
    least = int(re.findall(r"at least (\d+)K", str(refused.value))[0])
    # The forecast knows the inputs' paths and digests by their number alone.
    assert epmq_export.forecast(written(inputs, tmp_path, size=f"{least}K")).family == "bert"


@pytest.mark.parametrize(
    ("quantization", "message"),
    [
        ({"size": "90MB", "bits": 5}, r"quantization\.size: found a size beside bits"),
        (
            {"size": "90MB", "grid": "Q4_0"},
            r"quantization\.grid: found a grid beside size, which chooses one",
        ),
        ({"size": "90"}, r"quantization\.size: found '90', expected a size such as 2G, 500M or 800K"),
    ],
)
def test_what_contradicts_a_size(
    inputs: Path, tmp_path: Path, quantization: dict[str, object], message: str
) -> None:
    with pytest.raises(RecipeError, match=message):
        epmq_export.load_recipe(written(inputs, tmp_path, **quantization))
