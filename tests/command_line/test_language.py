"""The commands on language models: prompts and answers, texts to go on with, LoRA adapters, files for two
runtimes.
"""

import json
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import pytest
import torch
import yaml
from datasets import ClassLabel, Dataset, Features, Value
from safetensors.torch import load_file, save_file

from converters import open_family
from epmq_export.errors import RecipeError
from epmq_export.pipeline.requirements import require_matches
from epmq_export.recipe.load import load_recipe
from epmq_export.tensors.packed import Packed
from epmq_export.verification.report import SCHEMA
from tests.command_line.command import Result, Warm, ran_once
from tests.tiny import decoder as tiny_decoder
from tests.tiny import t5 as tiny_t5
from tests.tiny.built_once import built_once


def adapter(folder: Path, base: Path, seed: int) -> None:
    """A LoRA adapter on some of the base's linears, as PEFT writes it."""
    folder.mkdir()
    config = {
        "peft_type": "LORA",
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["q_proj", "down_proj"],
        "base_model_name_or_path": str(base),
    }
    (folder / "adapter_config.json").write_text(json.dumps(config), encoding="utf-8")
    generator = torch.Generator().manual_seed(seed)
    tensors = {}
    for name, value in load_file(base / "model.safetensors").items():
        if name.endswith(("q_proj.weight", "down_proj.weight")):
            path = f"base_model.model.{name.removesuffix('.weight')}"
            tensors[f"{path}.lora_A.weight"] = 0.2 * torch.randn(4, value.shape[1], generator=generator)
            tensors[f"{path}.lora_B.weight"] = 0.2 * torch.randn(value.shape[0], 4, generator=generator)
    save_file(tensors, folder / "adapter_model.safetensors")


def write_recipe(folder: Path, **more: Any) -> Path:
    (folder / "texts.txt").write_text("\n".join(tiny_decoder.LINES), encoding="utf-8")
    (folder / "mood.tsv").write_text(
        "good\tit is good\nbad\tit is bad\nbad\tso so\ngood\tvery good\n" * 3, encoding="utf-8"
    )
    content = {
        "base_model": "./base",
        "merge_method": "task_arithmetic",
        "tasks": {
            "mood": {
                "expert": "./first",
                "prompt": "{} : is it good or bad ?",
                "calibration": "texts.txt",
                "labels": {"good": " very good !", "bad": " bad"},
                "evaluation": "mood.tsv",
            },
            "stories": {"expert": "./second", "calibration": "texts.txt", "evaluation": "texts.txt"},
        },
        "calibration": {"samples": 4},
        "verify": {"rule": "point", "tasks": 0.35},  # scores of random weights are near each other
        **more,
    }
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    return path


def glue(folder: Path) -> dict[str, Any]:
    """Tasks of pairs of texts in tables, as GLUE has them: one with classes, one with numbers."""
    pairs = {"sentence1": [*tiny_decoder.LINES], "sentence2": [*reversed(tiny_decoder.LINES)]}
    for name, kind, labels in (
        ("same", ClassLabel(names=["different", "same"]), [0, 1, 1, 0, 1]),
        ("alike", Value("float32"), [0.5, 4.25, 3, 1.5, 5]),
    ):
        features = Features({"sentence1": Value("string"), "sentence2": Value("string"), "label": kind})
        Dataset.from_dict({**pairs, "label": labels}, features=features).to_parquet(
            folder / f"{name}.parquet"
        )
    asked = {"expert": "./first", "prompt": "{sentence1} and {sentence2} ?"}
    found = {
        name: {"path": f"{name}.parquet", "texts": ["sentence1", "sentence2"], "labels": "label"}
        for name in ("same", "alike")
    }
    return {
        "same_meaning": {
            **asked,
            "calibration": found["same"],
            "evaluation": found["same"],
            "labels": {"different": "no", "same": "yes"},
            "metric": "exact_match",
        },
        "alike": {**asked, "calibration": found["alike"], "evaluation": found["alike"], "metric": "spearman"},
    }


@pytest.fixture(scope="module")
def recipe() -> Path:
    """A whole model and an adapter as experts."""

    def build(folder: Path) -> None:
        base = tiny_decoder.write(folder / "base", "llama, tied")
        tiny_decoder.write_expert(folder / "first", base, "llama, tied", 1)
        adapter(folder / "second", base, 2)
        write_recipe(folder)

    return built_once("language", build) / "recipe.yaml"


@pytest.fixture(scope="module")
def ran(epmq: Warm, recipe: Path) -> tuple[Path, Result]:
    return ran_once("language-ran", epmq, recipe)


def report_of(output: Path) -> dict[str, Any]:
    report: dict[str, Any] = json.loads((output / "report.json").read_text(encoding="utf-8"))
    jsonschema.validate(report, json.loads(SCHEMA.read_text(encoding="utf-8")))
    return report


def test_both_files_are_as_good_as_the_reference(ran: tuple[Path, Result]) -> None:
    output, result = ran
    assert result.code == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-3:] == [
        "verdict: pass",
        "out/gguf/base-merged-Q4_0.gguf",
        "out/onnx/onnx/model_q4.onnx",
    ]
    report = report_of(output)
    assert list(report["scores"]) == [
        "base",
        "experts",
        "merged",
        "reference",
        "gguf in llama.cpp",
        "onnx in onnxruntime",
    ]
    assert report["scores"]["experts"]["stories"] == 1.0
    for file in report["files"]:
        told = file["checks"]["tasks"]["by_task"]["stories"]
        assert told["distance"]["measure"] == "KL divergence" and told["distance"]["mean"]["value"] < 0.01
        assert told["floor"]["distance"]["mean"]["value"] < 1e-3
        facts = told["facts"]
        assert facts["tokens"] == 31
        assert facts["perplexity"] == pytest.approx(facts["reference_perplexity"], rel=0.5)
        assert file["checks"]["codes"]["equal"] and file["checks"]["metadata"]["equal"]
    assert report["files"][1]["notes"] == {"linears": 15, "fused": 15}  # with the head
    assert set(Packed(output / "packed").grids) >= {
        f"model.layers.1.self_attn.{which}_proj.weight" for which in "qkvo"
    }


def test_a_model_is_compared_on_a_recipes_tasks(
    ran: tuple[Path, Result], recipe: Path, epmq: Warm, tmp_path: Path
) -> None:
    """One chooses among labels, which is another number than that of a row of scores."""
    output, _ = ran
    result = epmq(
        "verify",
        output / "packed",
        "--against",
        output / "onnx/onnx/model_q4.onnx",
        "--recipe",
        recipe,
        folder=tmp_path,
    )
    assert result.code == 0, result.stdout + result.stderr


def test_each_file_can_be_scored_alone(
    ran: tuple[Path, Result], recipe: Path, epmq: Warm, tmp_path: Path
) -> None:
    output, _ = ran
    scores = report_of(output)["scores"]
    for model, row in (("gguf/base-merged-Q4_0.gguf", "gguf in llama.cpp"), ("packed", "reference")):
        result = epmq("evaluate", output / model, "--recipe", recipe, "--json", folder=tmp_path)
        assert result.code == 0, result.stderr
        assert result.json["model"] == pytest.approx(scores[row], abs=1e-6)


def test_a_dry_run_counts_the_tokens(recipe: Path, epmq: Warm, tmp_path: Path) -> None:
    result = epmq("run", recipe, "--dry-run", "--json", folder=tmp_path)
    assert result.code == 0, result.stderr
    assert result.json["samples"]["tasks"] == 2 and 8 < result.json["samples"]["tokens"] < 40


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (
            {"head": "texts.txt", "labels": ["good", "bad"]},
            "tasks.mood.head: found it set, expected prompt and labels: family llama is asked in words",
        ),
        (
            {"prompt": "no place"},
            "tasks.mood.prompt: found the prompt 'no place', expected text with {} once",
        ),
    ],
)
def test_what_a_language_model_has_no_use_for_is_refused(
    change: dict[str, Any], sentence: str, recipe: Path, epmq: Warm, tmp_path: Path
) -> None:
    content = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    content["tasks"]["mood"] |= change
    for file in recipe.parent.iterdir():  # the paths in a recipe are from where it lies
        (tmp_path / file.name).symlink_to(file)
    (tmp_path / "other.yaml").write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    result = epmq("run", "other.yaml", "-o", "out", folder=tmp_path)
    assert result.code == 2 and sentence in result.error


def test_t5_is_calibrated_on_its_experts_answers(epmq: Warm, tmp_path: Path) -> None:
    base = tiny_t5.t5(tmp_path / "base", "1.1")  # As other tests export it, so that its traces are there.
    tiny_t5.near(tmp_path / "first", base, 1)
    tiny_t5.near(tmp_path / "second", base, 2)
    recipe = write_recipe(tmp_path)
    content = yaml.safe_load(recipe.read_text(encoding="utf-8"))
    content["tasks"] |= glue(tmp_path)
    recipe.write_text(yaml.safe_dump(content, sort_keys=False), encoding="utf-8")
    result = epmq("run", recipe, "-o", "out", folder=tmp_path)
    assert result.code == 0, result.stdout + result.stderr
    report = report_of(tmp_path / "out")
    assert -1 <= report["scores"]["experts"]["alike"] <= 1
    (chance,) = [told for told in report["warnings"] if "same_meaning: the reference is right on" in told]
    assert chance in result.stdout.replace("\n", " ")
    assert [file["runtime"] for file in report["files"]] == ["llama.cpp", "onnxruntime"]
    for file in report["files"]:
        assert file["checks"]["codes"]["equal"]
        told = file["checks"]["tasks"]["by_task"]
        assert told["stories"]["facts"]["tokens"] >= len(tiny_decoder.LINES)
        assert set(told["alike"]["facts"]) == {"no_number"} and not told["same_meaning"]["facts"]
        assert told["same_meaning"]["same_first"]["value"] >= 0.5 and told["alike"]["distance"] is None
    onnx = report["files"][1]
    others = [Path(other["path"]).name for other in onnx["others"]]
    assert Path(onnx["path"]).name == "encoder_model_q4.onnx"
    assert " MB of " in result.stdout
    assert others == [
        "decoder_model_q4.onnx",
        "decoder_with_past_model_q4.onnx",
        "decoder_model_merged_q4.onnx",
    ]
    assert onnx["notes"]["fused"] == onnx["notes"]["linears"] > 0


def test_a_mixture_of_experts_goes_the_whole_way(epmq: Warm, tmp_path: Path) -> None:
    """From a whole model and an adapter on experts, too, to a file whose size the dry run has said."""
    base = tiny_decoder.write(tmp_path / "base", "qwen3_moe")
    tiny_decoder.write_expert(tmp_path / "first", base, "qwen3_moe", 1)
    adapter(tmp_path / "second", base, 2)
    recipe = write_recipe(tmp_path, calibration={"samples": 1})
    said = epmq("run", recipe, "--dry-run", "--json", folder=tmp_path).json
    result = epmq("run", recipe, "-o", "out", folder=tmp_path)
    assert result.code == 0, result.stdout + result.stderr
    assert result.stdout.splitlines()[-2:] == ["verdict: pass", "out/gguf/base-merged-Q4_0.gguf"]
    (planned,), file = said["files"], tmp_path / "out" / "gguf" / "base-merged-Q4_0.gguf"
    assert planned["bytes"] == pytest.approx(file.stat().st_size, rel=0.02)
    report = report_of(tmp_path / "out")
    (found,) = report["files"]
    assert found["checks"]["codes"]["equal"] and found["checks"]["metadata"]["equal"]
    told = "linears of mixtures get no row of some task"
    assert [told in note for note in report["notes"]].count(True) == 1
    assert result.stderr.count(told) == 1
    for storage in ({"overrides": {"*.experts.0.*": "Q8_0"}}, {"keep": ["*.experts.0.*"]}):
        wrong = load_recipe(write_recipe(tmp_path, quantization=storage))
        with pytest.raises(RecipeError, match=r"which matches model\.layers\.0\.mlp\.experts\.0\.gate_proj"):
            require_matches(wrong, open_family(base))
    require_matches(
        load_recipe(write_recipe(tmp_path, quantization={"keep": ["*.1.mlp.*"]})), open_family(base)
    )
