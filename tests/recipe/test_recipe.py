"""The keys of a recipe, their defaults, and what they mean together."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

from epmq_export.calibration.method import DEFAULT_METHOD, PRESETS
from epmq_export.calibration.refinement import AFFINE, WHOLE, Refinement
from epmq_export.errors import RecipeError
from epmq_export.grids import BUDGET, GRIDS
from epmq_export.grids.layout import Layout
from epmq_export.recipe.values import ONNX_GRIDS
from formats.gguf.format import Gguf
from formats.gguf.types import BLOCKS
from formats.onnx.format import OnnxQdq
from formats.onnx.parts import PARTS
from tests.recipe.written import FULL, SMALLEST, load


def test_defaults_are_those_of_the_method(folder: Path) -> None:
    recipe = load(folder, SMALLEST)
    assert recipe.merge_method == "tsvm"
    assert recipe.calibration.method == DEFAULT_METHOD
    assert recipe.calibration.settings == PRESETS[DEFAULT_METHOD]
    assert (recipe.calibration.samples, recipe.calibration.seed) == (64, 0)
    assert (recipe.quantization.grid, recipe.quantization.embeddings, recipe.quantization.keep) == (
        "Q4_0",
        "Q8_0",
        [],
    )
    assert recipe.export.formats is None and recipe.frozen is None
    assert (recipe.verify.graph, recipe.verify.tasks, recipe.verify.agreement) == (1e-3, 0.02, 0.98)
    assert recipe.tasks["mood"].labels is None
    assert (recipe.tasks["mood"].templates, recipe.tasks["mood"].head) == ([], None)
    assert recipe.parameters == {}


def test_every_key_is_read(folder: Path) -> None:
    recipe = load(folder, FULL)
    assert [model.model for model in recipe.models] == ["./base", "./mood", "org/expert+./adapter"]
    assert [model.model for model in recipe.experts] == ["./mood", "org/expert+./adapter"]
    assert recipe.models[1].parameters == {
        "density": 0.5,
        "weight": [{"filter": "attention", "value": [0, 0.5, 1]}, {"value": 1e-3}],
    }
    assert recipe.parameters == {"lambda": 0.4}
    assert (recipe.dtype, recipe.out_dtype, recipe.tokenizer_source) == ("float32", "bfloat16", "./mood")
    mood, topic = recipe.tasks["mood"], recipe.tasks["topic"]
    assert mood.calibration == [folder / "mood.txt", folder / "data/more.tsv"]
    assert mood.evaluation == folder / "data/test.tsv"
    assert list((mood.labels or {}).items()) == [("very_good", "very good"), ("no", "no"), ("on", "on")]
    assert topic.labels == {"world": "news of the world", "sport": "sport"}
    settings = asdict(recipe.calibration.settings)
    assert settings == asdict(PRESETS["epmq"]) | {"alpha": 0.25, "rho": 2, "damping": 0.1}
    assert (recipe.calibration.samples, recipe.calibration.seed) == (7, 3)
    assert (recipe.quantization.grid, recipe.quantization.embeddings) == ("Q8_0", "Q4_0")
    assert recipe.quantization.keep == ["*.pooler.*", "encoder.layer.0.*"]
    assert recipe.export.formats == ["onnx"]
    assert (recipe.verify.graph, recipe.verify.tasks, recipe.verify.agreement) == (2e-3, 0, 1)
    assert recipe.files == [folder / "mood.txt", folder / "data/more.tsv", folder / "data/test.tsv"]
    assert recipe.path == folder / "recipe.yaml"
    assert recipe.directory == folder
    assert recipe.require_tasks() is recipe


def test_the_source_is_what_was_written_and_json_holds_it(folder: Path) -> None:
    source = load(folder, FULL).source
    assert json.loads(json.dumps(source, allow_nan=False)) == source
    assert source["tasks"]["topic"] == {
        "expert": "org/expert+adapter",
        "calibration": "mood.txt",
        "evaluation": "data/test.tsv",
        "labels": {"world": "news of the world", "sport": None},
    }
    assert "quantization" not in load(folder, SMALLEST).source


def test_a_written_out_recipe_loads_to_the_same(folder: Path) -> None:
    recipe = load(folder, FULL)
    assert load(folder, yaml.safe_dump(recipe.source, sort_keys=False)).model_dump() == recipe.model_dump()


@pytest.mark.parametrize(
    ("written", "asked"),
    [
        ("{refine: true, tune: true}", WHOLE),
        ("{refine: false}", None),
        ("{refine: 40}", replace(WHOLE, steps=40)),
        ("{refine: affine}", AFFINE),
        ("{refine: affine, method: gptq}", AFFINE),
        ("{refine: auto}", AFFINE),
        ("{refine: auto, method: gptq}", None),
        ("{}", AFFINE),
    ],
)
def test_refine_is_a_switch_or_a_number_of_steps_or_biases_and_norms_alone(
    folder: Path, written: str, asked: Refinement | None
) -> None:
    assert load(folder, SMALLEST + f"calibration: {written}\n").calibration.refinement == asked


@pytest.mark.parametrize(
    ("written", "samples", "steps"),
    [
        ("{effort: fast}", 16, 0),
        ("{effort: good}", 64, "auto"),
        ("{}", 64, "auto"),
        ("{effort: best}", 512, 1200),
        ("{effort: best, samples: 8}", 8, 1200),
        ("{refine: false, effort: best}", 512, 0),
    ],
)
def test_an_effort_fills_what_is_not_given(
    folder: Path, written: str, samples: int, steps: int | str
) -> None:
    calibration = load(folder, SMALLEST + f"calibration: {written}\n").calibration
    assert (calibration.samples, calibration.refine) == (samples, steps)


def test_an_unknown_effort_is_refused(folder: Path) -> None:
    with pytest.raises(RecipeError, match=r"calibration\.effort: found 'bset', .*did you mean 'best'"):
        load(folder, SMALLEST + "calibration: {effort: bset}\n")


@pytest.mark.parametrize("written", ["0", "-3", "1.5", "often", "[3]"])
def test_refine_is_nothing_else(folder: Path, written: str) -> None:
    told = r"calibration\.refine: found .*, expected auto, affine, true, false or a number of steps"
    with pytest.raises(RecipeError, match=told):
        load(folder, SMALLEST + f"calibration: {{refine: {written}}}\n")


def test_what_has_no_numbers_to_tune_is_not_tuned(folder: Path) -> None:
    with pytest.raises(
        RecipeError,
        match=(
            r"calibration\.tune: found true, which method 'gptq' has nothing to tune for, expected the "
            r"key left out"
        ),
    ):
        load(folder, SMALLEST + "calibration: {method: gptq, tune: true}\n")


def test_grids_are_those_that_the_formats_hold() -> None:
    assert {grid.file_type for grid in GRIDS.values()} == set(BLOCKS)
    assert set(ONNX_GRIDS) == OnnxQdq().grids == set(PARTS) and set(BUDGET) <= set(GRIDS) == Gguf().grids


def test_the_word_for_what_stands_in_for_a_grid(folder: Path) -> None:
    written = '{grid: Q8_0, embeddings: Q4_0, keep: ["*.pooler.*", encoder.layer.0.*]}'
    quantization = load(
        folder,
        FULL.replace(
            written,
            "{grid: Q4_K, embeddings: Q6_K, onnx_grid: Q4_1Z, keep: [c*], overrides: {a*: IQ4_NL, b*: Q8_0}}",
        ),
    ).quantization
    assert quantization.stand_in("onnx") == "Q4_1Z" and quantization.stand_in("gguf") is None
    assert quantization.layout == Layout("Q4_K", "Q6_K", {"c*": "F16", "a*": "IQ4_NL", "b*": "Q8_0"})


def test_keep_comes_before_an_override_of_the_same_pattern(folder: Path) -> None:
    recipe = load(
        folder,
        FULL.replace(
            '{grid: Q8_0, embeddings: Q4_0, keep: ["*.pooler.*", encoder.layer.0.*]}',
            "{keep: [a*], overrides: {a*: Q8_0, b*: Q8_0}}",
        ),
    )
    assert dict(recipe.quantization.layout.overrides) == {"a*": "F16", "b*": "Q8_0"}
