"""What stands beside an expert's weights and differs from the base's, at every stage that opens an expert."""

import json
import logging
import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import yaml

import epmq_export as epmq
from epmq_export.errors import InputError
from epmq_export.installed import registry
from epmq_export.pipeline.job import Job
from epmq_export.recipe.load import load_recipe
from epmq_export.tensors.gguf_file import metadata_before
from epmq_export.tensors.packed import Packed
from formats.gguf.format import Gguf
from formats.gguf.writer import write_gguf
from tests.tiny import decoder, recipe_project
from tests.tiny.bert import small_bert, small_packed

THETA = (
    r"expert/config\.json: found rope_parameters\.rope_theta 1000000\.0 \(the base: 10000\.0\), "
    r"expected what .*base/config\.json has: "
)


def edit(path: Path, **changes: object) -> None:
    content = {**json.loads(path.read_text(encoding="utf-8")), **changes}
    path.write_text(json.dumps(content), encoding="utf-8")


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a recipe of an expert whose rotations have another base."""
    folder = tmp_path_factory.mktemp("language")
    base = decoder.write(folder / "base", "qwen2")
    decoder.write_expert(folder / "expert", base, "qwen2", 1)
    edit(folder / "expert" / "config.json", rope_parameters={"rope_type": "default", "rope_theta": 1e6})
    return recipe(folder)


def recipe(folder: Path) -> Path:
    (folder / "texts.txt").write_text("the cat sat .\na dog ran .\nit is good .\n")
    tasks = {"a": {"expert": "./expert", "calibration": "texts.txt"}}
    content = {"base_model": "./base", "tasks": tasks, "calibration": {"samples": 2}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(content))
    return folder / "recipe.yaml"


def test_every_stage_refuses_an_expert_of_another_config(language: Path, tmp_path: Path) -> None:
    for stage in (epmq.run, epmq.merge, epmq.calibrate):
        with pytest.raises(InputError, match=THETA):
            stage(language, tmp_path / "out")
        assert not (tmp_path / "out").exists()
    with pytest.raises(InputError, match=THETA):
        epmq.forecast(language)


def test_a_model_that_is_evaluated_is_one_of_the_bases_config(language: Path, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    base = recipe_project.base(folder / "base", width=32)
    recipe_project.full_expert(folder / "expert", base, 1)
    recipe_project.full_expert(folder / "other", base, 2)
    recipe_project.data(folder / "data")
    edit(folder / "other" / "config.json", num_attention_heads=2)
    task = {
        "expert": "./expert",
        "calibration": "data/0.txt",
        "evaluation": "data/0.tsv",
        "labels": recipe_project.label_texts(0),
    }
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"base_model": "./base", "tasks": {"a": task}}))
    with pytest.raises(InputError, match=r"other/config\.json: found num_attention_heads 2 \(the base: 4\)"):
        epmq.evaluate(folder / "other", folder / "recipe.yaml")


def test_a_packed_checkpoint_of_another_family_is_named(tmp_path: Path) -> None:
    small_packed(tmp_path / "packed", small_bert(tmp_path / "model"))
    decoder.write_expert(tmp_path / "expert", decoder.write(tmp_path / "base", "qwen2"), "qwen2", 1)
    with pytest.raises(InputError, match=r"packed: found a bert, expected a qwen2, as the recipe's base is"):
        epmq.evaluate(tmp_path / "packed", recipe(tmp_path))


def a_gguf(path: Path, model: Path, keys: Mapping[str, str | int]) -> Path:
    """Write the GGUF file of a small BERT with other values of some keys."""
    written = Gguf().write(*small_packed(path.parent / "packed", model), path.parent)
    held = metadata_before(written, "-")
    assert keys.keys() <= held.keys()
    metadata = {key: replace(value, value=keys.get(key, value.value)) for key, value in held.items()}
    write_gguf(path, metadata, {}, [])
    return path


@pytest.mark.parametrize(
    ("key", "value"),
    [("general.architecture", "llama"), ("bert.block_count", 7), ("bert.embedding_length", 32)],
)
def test_a_gguf_file_of_another_model_is_named(key: str, value: str | int, tmp_path: Path) -> None:
    base = recipe_project.base(tmp_path / "base", width=64, layers=2)
    recipe_project.full_expert(tmp_path / "expert", base, 1)
    path = a_gguf(tmp_path / "x.gguf", base, {key: value})
    with pytest.raises(InputError, match=rf"x\.gguf: key {key} is {value}, expected \w+, as the base has it"):
        epmq.evaluate(path, recipe(tmp_path))


def test_an_onnx_file_of_another_model_is_named_by_the_config_beside_it(tmp_path: Path) -> None:
    decoder.write_expert(tmp_path / "expert", decoder.write(tmp_path / "base", "qwen2"), "qwen2", 1)
    small_bert(tmp_path / "other")
    (tmp_path / "other" / "onnx").mkdir()
    (tmp_path / "other" / "onnx" / "model_q4.onnx").write_bytes(b"x")
    with pytest.raises(
        InputError, match=r"other/config\.json: found model_type 'bert', expected 'qwen2', as"
    ):
        epmq.evaluate(tmp_path / "other" / "onnx" / "model_q4.onnx", recipe(tmp_path))


def test_what_is_told_stands_in_log_forecast_and_report(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    base = recipe_project.base(tmp_path / "base", width=32, layers=2)
    recipe_project.full_expert(tmp_path / "expert", base, 1)
    edit(tmp_path / "expert" / "config.json", of_a_trainer="x", id2label={"0": "good", "1": "bad"})
    path = recipe(tmp_path)
    said = "./expert: config.json has of_a_trainer 'x', the base's has nothing: "
    opened = load_recipe(path)
    (note,) = Job.open(opened, registry(), torch.device("cpu")).notes
    assert note.startswith(said)
    assert note in epmq.forecast(path).notes
    with caplog.at_level(logging.WARNING):
        epmq.merge(path, tmp_path / "merged")
        assert note in [record.getMessage() for record in caplog.records]
        caplog.clear()
        epmq.calibrate(path, tmp_path / "packed")
        assert note in [record.getMessage() for record in caplog.records]
    assert note in Packed(tmp_path / "packed").index.notes


def test_an_adapter_with_a_config_of_its_own_is_compared(tmp_path: Path) -> None:
    base = recipe_project.base(tmp_path / "base", width=32, layers=2)
    with warnings.catch_warnings():
        warnings.filterwarnings(
            "ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning
        )  # of transformers, on PEFT's doing
        recipe_project.lora_expert(tmp_path / "expert", base, 1)
    path = recipe(tmp_path)
    assert epmq.merge(path, tmp_path / "merged").is_dir()
    config = json.loads((base / "config.json").read_text(encoding="utf-8"))
    (tmp_path / "expert" / "config.json").write_text(json.dumps({**config, "hidden_act": "relu"}))
    with pytest.raises(
        InputError, match=r"expert/config\.json: found hidden_act 'relu' \(the base: 'gelu'\)"
    ):
        epmq.merge(path, tmp_path / "again")


def with_prompts(folder: Path, default: str | None) -> Path:
    base = recipe_project.base(folder / "base", width=32, layers=1)
    recipe_project.full_expert(folder / "expert", base, 1)
    (base / "config_sentence_transformers.json").write_text(
        json.dumps({"prompts": {"query": "query: ", "empty": ""}, "default_prompt_name": default})
    )
    recipe_project.data(folder / "data")
    task = {
        "expert": "./expert",
        "calibration": "data/0.txt",
        "evaluation": "data/0.tsv",
        "labels": ["{good}", "bad", "so so"],
    }
    tasks = {"plain": task, "own": {**task, "prompt": "passage: {}", "templates": ["it is {}"]}}
    (folder / "recipe.yaml").write_text(yaml.safe_dump({"base_model": "./base", "tasks": tasks}))
    return folder / "recipe.yaml"


def test_the_default_prompt_stands_before_texts_and_labels_unless_a_task_has_its_own(tmp_path: Path) -> None:
    job = Job.open(load_recipe(with_prompts(tmp_path, "query")), registry(), torch.device("cpu"))
    own, plain = job.tasks
    assert all(text.startswith("query: ") for text in (*plain.calibration, *plain.evaluation))
    assert plain.prompts == [["query: {good}"], ["query: bad"], ["query: so so"]]
    assert all(text.startswith("passage: ") for text in (*own.calibration, *own.evaluation))
    assert own.prompts == [["it is {good}"], ["it is bad"], ["it is so so"]]
    assert plain.notes == ["task plain: its texts stand behind the base's default prompt 'query: '"]
    assert [*own.notes, *job.notes] == []


def test_prompts_without_a_default_are_told(tmp_path: Path) -> None:
    job = Job.open(load_recipe(with_prompts(tmp_path, None)), registry(), torch.device("cpu"))
    assert not any(text.startswith("query: ") for text in job.tasks[0].calibration)
    (note,) = job.notes
    assert note.startswith(
        "./base: has the prompts query 'query: ' and none of them as the default, so texts"
    )
