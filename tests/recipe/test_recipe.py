import json
from dataclasses import asdict
from pathlib import Path
from typing import get_origin

import pytest
import yaml
from pydantic import BaseModel

from epmq_export.calibration.method import DEFAULT_METHOD, PRESETS, REFINE_STEPS
from epmq_export.errors import RecipeError
from epmq_export.grids import BUDGET, GRIDS
from epmq_export.grids.layout import Layout
from epmq_export.recipe.load import load_recipe
from epmq_export.recipe.mistakes import keys, mappings
from epmq_export.recipe.recipe import Recipe, RecipeQuantization
from epmq_export.recipe.task import RecipeData
from epmq_export.recipe.values import ONNX_GRIDS
from formats.gguf.layout import LAYOUTS
from formats.onnx.graph import KINDS, PARTS
from tests import ROOT

REFERENCE = ROOT / "docs" / "recipe.md"

SMALLEST = """\
base_model: ./base
tasks:
  mood: {expert: ./mood, calibration: mood.txt}
"""

FULL = """\
base_model: ./base
merge_method: ties
models:
  - model: ./base
  - model: ./mood
    parameters:
      density: 0.5
      weight:
        - filter: attention
          value: [0, 0.5, 1]
        - value: 1e-3
  - model: org/expert+./adapter
parameters: {lambda: 0.4}
dtype: float32
out_dtype: bfloat16
tokenizer_source: ./mood
tasks:
  mood:
    expert: mood
    calibration: [mood.txt, data/more.tsv]
    evaluation: data/test.tsv
    labels: [very_good, no, on]
  topic:
    expert: org/expert+adapter
    calibration: mood.txt
    evaluation: data/test.tsv
    labels: {world: news of the world, sport: }
calibration: {method: epmq, samples: 7, alpha: 0.25, rho: 2, lambda: 1e-1, seed: 3}
quantization: {grid: Q8_0, embeddings: Q4_0, keep: ["*.pooler.*", encoder.layer.0.*]}
export: {formats: [onnx]}
verify: {graph: 2e-3, tasks: 0, agreement: 1}
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("base", "mood", "adapter", "data"):
        (tmp_path / name).mkdir()
    for name in ("mood.txt", "data/more.tsv", "data/test.tsv"):
        (tmp_path / name).write_text("a\tb\n")
    return tmp_path


def load(folder: Path, text: str) -> Recipe:
    path = folder / "recipe.yaml"
    path.write_text(text)
    return load_recipe(path)


def test_defaults_are_those_of_the_method(folder: Path) -> None:
    recipe = load(folder, SMALLEST)
    assert recipe.merge_method == "tsvm"
    assert recipe.calibration.method == DEFAULT_METHOD
    assert recipe.calibration.settings == PRESETS[DEFAULT_METHOD]
    assert (recipe.calibration.samples, recipe.calibration.seed) == (64, 0)
    assert (recipe.quantization.grid, recipe.quantization.embeddings, recipe.quantization.keep) == (
        "Q4_0",
        "F16",
        [],
    )
    assert recipe.export.formats is None and recipe.frozen is None
    assert (recipe.verify.graph, recipe.verify.tasks, recipe.verify.agreement) == (1e-3, 0.02, 0.98)
    assert recipe.tasks["mood"].labels is None
    assert (recipe.tasks["mood"].templates, recipe.tasks["mood"].head) == ([], None)
    assert recipe.parameters == {}


IMAGES = """\
base_model: ./base
frozen: [text_model.*]
tasks:
  pets:
    expert: ./mood
    calibration:
      [data, mood.txt, {path: data, split: train}, {path: data/pets.npz, images: x_train, labels: y_train}]
    evaluation: {dataset: org/pets@v1, config: small, split: "train[:10]", images: img, labels: species}
    labels: [cat, dog]
    templates: ["a photo of a {}."]
  shapes:
    expert: org/shapes
    calibration: {dataset: shapes}
    evaluation: data
    head: data/head.safetensors
"""


def test_images_and_heads(folder: Path) -> None:
    for name in ("pets.npz", "head.safetensors"):
        (folder / "data" / name).touch()
    recipe = load(folder, IMAGES)
    pets, shapes = recipe.tasks["pets"], recipe.tasks["shapes"]
    assert pets.calibration == [
        folder / "data",
        folder / "mood.txt",
        RecipeData.model_construct(path=folder / "data", split="train"),
        RecipeData.model_construct(path=folder / "data/pets.npz", images="x_train", labels="y_train"),
    ]
    assert pets.evaluation == RecipeData.model_construct(
        dataset="org/pets@v1", config="small", split="train[:10]", images="img", labels="species"
    )
    assert (pets.templates, pets.head, recipe.frozen) == (["a photo of a {}."], None, ["text_model.*"])
    assert shapes.calibration == [RecipeData.model_construct(dataset="shapes")]
    assert (shapes.evaluation, shapes.head, shapes.labels) == (
        folder / "data",
        folder / "data/head.safetensors",
        None,
    )
    # What they name is hashed: directories, too, and each once.
    assert recipe.files == [
        folder / name for name in ("data", "mood.txt", "data/pets.npz", "data/head.safetensors")
    ]


PAIRS = """\
base_model: ./base
tasks:
  mrpc:
    expert: ./mood
    prompt: "First: {sentence1}\\nSecond: {sentence2}\\nThe same?"
    calibration:
      - {path: data, texts: [sentence1, sentence2]}
      - {dataset: nyu-mll/glue, config: mrpc, texts: [sentence2, sentence1]}
    evaluation:
      {dataset: nyu-mll/glue, config: mrpc, split: validation, texts: [sentence1, sentence2], labels: label}
    labels: {not_equivalent: "no", equivalent: "yes"}
  sst2:
    expert: org/sst2
    prompt: "{sentence} is: {}"
    calibration: [mood.txt, {dataset: nyu-mll/glue, texts: sentence}]
"""


def test_texts_of_tables(folder: Path) -> None:
    recipe = load(folder, PAIRS)
    mrpc, sst2 = recipe.tasks["mrpc"], recipe.tasks["sst2"]
    assert mrpc.data == [
        (
            ("calibration", 0),
            RecipeData.model_construct(path=folder / "data", texts=["sentence1", "sentence2"]),
        ),
        (
            ("calibration", 1),
            RecipeData.model_construct(
                dataset="nyu-mll/glue", config="mrpc", texts=["sentence2", "sentence1"]
            ),
        ),
        (
            ("evaluation",),
            RecipeData.model_construct(
                dataset="nyu-mll/glue",
                config="mrpc",
                split="validation",
                texts=["sentence1", "sentence2"],
                labels="label",
            ),
        ),
    ]
    # Of one text the name is nothing to the prompt, where other braces are text.
    assert sst2.calibration == [
        folder / "mood.txt",
        RecipeData.model_construct(dataset="nyu-mll/glue", texts=["sentence"]),
    ]
    assert recipe.files == [folder / "data", folder / "mood.txt"]


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


def test_locations(folder: Path) -> None:
    (folder / "a+b").mkdir()
    recipe = load(folder, SMALLEST)
    assert (
        recipe.location("base")
        == recipe.location("./base")
        == recipe.location(str(folder / "base"))
        == str(folder / "base")
    )
    assert recipe.location("org/model") == "org/model"
    assert recipe.location("org/model+adapter") == f"org/model+{folder / 'adapter'}"
    assert recipe.location("base+org/adapter") == f"{folder / 'base'}+org/adapter"
    assert recipe.location("./gone") == str(folder / "gone")
    assert recipe.location("a+b") == str(folder / "a+b")
    assert recipe.location("~/models/x") == str(Path("~/models/x").expanduser())


def test_paths_are_relative_to_the_recipe_wherever_one_stands(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (folder / "recipe.yaml").write_text(SMALLEST)
    monkeypatch.chdir(folder / "data")
    recipe = load_recipe(Path("../recipe.yaml"))
    monkeypatch.chdir("/")
    assert recipe.tasks["mood"].calibration[0].samefile(folder / "mood.txt")
    assert Path(recipe.location("./base")).samefile(folder / "base")


def test_the_tasks_name_the_models_in_their_order_and_once(folder: Path) -> None:
    text = (
        SMALLEST + "  b: {expert: org/b, calibration: mood.txt}\n  c: {expert: mood, calibration: mood.txt}\n"
    )
    recipe = load(folder, text)
    assert [model.model for model in recipe.models] == ["./mood", "org/b"]
    assert recipe.models == recipe.experts


def test_labels_from_a_json_file(folder: Path) -> None:
    text = SMALLEST.replace("mood.txt}", "mood.txt, evaluation: data/test.tsv, labels: data/labels.json}")
    (folder / "data/labels.json").write_text('["so_so", "fine"]')
    recipe = load(folder, text)
    assert recipe.tasks["mood"].labels == {"so_so": "so so", "fine": "fine"}
    assert folder / "data/labels.json" in recipe.files
    (folder / "data/labels.json").write_text('{"so_so": "neither good nor bad", "fine": "it is fine"}')
    assert load(folder, text).tasks["mood"].labels == {"so_so": "neither good nor bad", "fine": "it is fine"}


# As mergekit's own documentation shows them, with shorter names.
LINEAR = """\
models:
  - model: org/mini-13b
    parameters:
      weight: 1.0
  - model: org/other-13b
    parameters:
      weight: 0.3
merge_method: linear
dtype: float16
"""
TASK_ARITHMETIC = """\
base_model: org/base
models:
  - model: org/a
    parameters: {weight: 0.5}
  - model: org/b+org/lora
    parameters: {weight: [0, 0.3, 1]}
merge_method: task_arithmetic
parameters: {normalize: false, lambda: 1.0}
dtype: bfloat16
tokenizer_source: base
"""
TIES = """\
models:
  - model: org/base
    # no parameters necessary for base model
  - model: org/a
    parameters:
      density: [1, 0.7, 0.1] # density gradient
      weight: 1.0
  - model: org/b
    parameters:
      density: 0.33
      weight:
        - filter: mlp
          value: 0.5
        - value: 0
merge_method: ties
base_model: org/base
parameters:
  normalize: true
  int8_mask: true
dtype: float16
"""


def test_mergekit_files_are_recipes_for_merge(folder: Path) -> None:
    linear = load(folder, LINEAR)
    assert linear.base_model == "org/mini-13b"  # whose config and tokenizer the merge gets
    assert [model.model for model in linear.experts] == ["org/mini-13b", "org/other-13b"]
    arithmetic = load(folder, TASK_ARITHMETIC)
    assert [(model.model, model.parameters) for model in arithmetic.experts] == [
        ("org/a", {"weight": 0.5}),
        ("org/b+org/lora", {"weight": [0, 0.3, 1]}),
    ]
    ties = load(folder, TIES)
    assert len(ties.models) == 3
    assert [model.model for model in ties.experts] == ["org/a", "org/b"]
    assert ties.models[0].parameters == {}
    assert ties.parameters == {"normalize": True, "int8_mask": True}
    for recipe in (linear, arithmetic, ties):
        assert not recipe.tasks
        with pytest.raises(
            RecipeError, match=r"recipe\.yaml:1: tasks: found none, expected at least one task"
        ):
            recipe.require_tasks()


@pytest.mark.parametrize(("written", "steps"), [("true", REFINE_STEPS), ("false", 0), ("40", 40)])
def test_refine_is_a_switch_or_a_number_of_steps(folder: Path, written: str, steps: int) -> None:
    assert (
        load(folder, SMALLEST + f"calibration: {{refine: {written}, tune: true}}\n").calibration.refine
        == steps
    )


@pytest.mark.parametrize("written", ["0", "-3", "1.5", "often", "[3]"])
def test_refine_is_nothing_else(folder: Path, written: str) -> None:
    with pytest.raises(
        RecipeError, match=r"calibration\.refine: found .*, expected true, false or a number of steps"
    ):
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


def test_a_later_finding_gets_the_line_of_its_key(folder: Path) -> None:
    recipe = load(folder, FULL)
    assert str(recipe.mistake(("models", 1, "parameters", "density"), "found 7")).endswith(
        "recipe.yaml:7: models[1].parameters.density: found 7"
    )
    assert str(recipe.mistake(("calibration", "unwritten"), "found 7")).endswith(
        "recipe.yaml:28: calibration.unwritten: found 7"
    )


def test_grids_are_those_that_the_formats_hold() -> None:
    assert {grid.file_type for grid in GRIDS.values()} == set(LAYOUTS)
    assert set(ONNX_GRIDS) == set(PARTS) == set(KINDS) and set(BUDGET) <= set(GRIDS)


def test_what_onnx_cannot_hold_is_replaced_there(folder: Path) -> None:
    def quantization(text: str) -> RecipeQuantization:
        return load(
            folder,
            FULL.replace('{grid: Q8_0, embeddings: Q4_0, keep: ["*.pooler.*", encoder.layer.0.*]}', text),
        ).quantization

    plain = quantization("{grid: Q4_0, overrides: {a*: Q4_1Z, b*: F32}}")
    assert not plain.onnx_apart and plain.replaced_in_onnx == {}
    apart = quantization(
        "{grid: Q4_K, embeddings: Q6_K, onnx_grid: Q4_1Z, keep: [c*], overrides: {a*: IQ4_NL, b*: Q8_0}}"
    )
    assert apart.onnx_apart and apart.replaced_in_onnx == {"Q4_K": "Q4_1Z", "Q6_K": "Q8_0", "IQ4_NL": "Q4_1Z"}
    assert apart.layout == Layout("Q4_K", "Q6_K", {"c*": "F16", "a*": "IQ4_NL", "b*": "Q8_0"})
    assert quantization("{bits: 5}").onnx_apart


def _reference(part: type[BaseModel], above: str = "") -> dict[str, object]:
    """Every key of a recipe, dotted, with its default; `modules` takes its inner keys from above."""
    found: dict[str, object] = {}
    for key, info in zip(keys(part), part.model_fields.values(), strict=True):
        inner = next(mappings(info.annotation), None)
        if inner is RecipeData:  # or a path; told in full where it stands first
            found[f"{above}{key}"] = ... if info.is_required() else info.default
            found |= _reference(inner, f"{above}{key}[].") if key == "calibration" else {}
        elif inner is not None and not (above == "modules.NAME." and key in ("models", "slices")):
            found |= _reference(inner, f"{above}{key}{_INSIDE.get(get_origin(info.annotation), '.')}")
        else:
            found[f"{above}{key}"] = (
                ... if info.is_required() or (key == "base_model" and not above) else info.default
            )
    return found


_INSIDE = {list: "[].", dict: ".NAME."}


def test_the_reference_names_every_key_with_its_default_and_no_other() -> None:
    rows = [
        line.split(" | ")
        for line in REFERENCE.read_text(encoding="utf-8").splitlines()
        if line.startswith("| `")
    ]
    documented = {row[0].strip("| `"): row[2].strip("`") for row in rows}
    expected = _reference(Recipe)
    assert list(documented) == list(expected)
    for key, default in expected.items():
        if default is ... or default is None or default == {}:
            assert documented[key] == ("required" if default is ... else "none"), key
        else:
            assert yaml.safe_load(documented[key]) == default or float(documented[key]) == default, key


def test_the_reference_names_every_choice() -> None:
    text = REFERENCE.read_text(encoding="utf-8")
    for choice in (*PRESETS, *GRIDS, "F16", "F32", "float32", "float16", "bfloat16", "gguf", "onnx"):
        assert f"`{choice}`" in text, choice


def test_the_examples_of_the_reference_are_recipes(folder: Path) -> None:
    examples = REFERENCE.read_text(encoding="utf-8").split("```yaml\n")[1:]
    assert len(examples) >= 2
    for name in ("experts/sst2", "experts/ag_news", "experts/support"):
        (folder / name).mkdir(parents=True)
    for name in ("sst2.train.txt", "sst2.test.tsv", "ag_news.train.tsv", "ag_news.test.tsv", "tickets.txt"):
        (folder / "data" / name).touch()
    for name in ("experts/pets", "experts/signs", "data/pets", "data/signs"):
        (folder / name).mkdir(parents=True)
    (folder / "data/digits.npz").touch()
    (folder / "data/ag_news.labels.json").write_text('{"world": "world news", "sports": "sports news"}')
    for name in ("experts/textures", "experts/flowers"):
        (folder / name).mkdir(parents=True)
    for name in ("experts/textures/head.safetensors", "data/textures.npz", "data/flowers.npz"):
        (folder / name).touch()
    for name in ("experts/news", "experts/stories", "experts/grammar", "experts/similarity"):
        (folder / name).mkdir(parents=True)
    for name in (
        "news.txt",
        "news.test.tsv",
        "stories.txt",
        "stories.test.txt",
        "grammar.txt",
        "grammar.test.tsv",
        "pairs.txt",
        "pairs.test.tsv",
    ):
        (folder / "data" / name).touch()
    for name in ("experts/paraphrases", "data/paraphrases"):
        (folder / name).mkdir(parents=True)
    for example in examples:
        load(folder, example.split("```")[0])


def test_keep_comes_before_an_override_of_the_same_pattern(folder: Path) -> None:
    recipe = load(
        folder,
        FULL.replace(
            '{grid: Q8_0, embeddings: Q4_0, keep: ["*.pooler.*", encoder.layer.0.*]}',
            "{keep: [a*], overrides: {a*: Q8_0, b*: Q8_0}}",
        ),
    )
    assert dict(recipe.quantization.layout.overrides) == {"a*": "F16", "b*": "Q8_0"}
