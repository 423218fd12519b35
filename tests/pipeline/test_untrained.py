"""Experts that are the base, and adapters that change nothing of what is merged."""

import json
import logging
import shutil
import warnings
from pathlib import Path

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import CLIPTextModel

import epmq_export as epmq
from epmq_export.errors import InputError
from tests.tiny import recipe_project
from tests.tiny.shallow_clip import clip

SENTENCE = "./{} equals the base in all that is merged: it has not been trained"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("untrained")
    base = recipe_project.base(folder / "base", width=32)
    shutil.copytree(base, folder / "same")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        recipe_project.lora_expert(folder / "adapter", base, 2)
    shutil.copytree(folder / "adapter", folder / "zero")
    path = folder / "zero" / "adapter_model.safetensors"
    tensors = {
        name: torch.zeros_like(value) if "lora_B" in name else value
        for name, value in load_file(path).items()
    }
    save_file(tensors, path)
    (folder / "text.txt").write_text("a\nb\nc\n")
    return folder


def recipe(folder: Path, place: Path, *experts: str) -> Path:
    tasks = {name: {"expert": f"./{name}", "calibration": "text.txt"} for name in experts}
    path = folder / f"{place.name}.yaml"
    path.write_text(
        yaml.safe_dump(
            {
                "base_model": "./base",
                "tasks": tasks,
                "calibration": {"samples": 2},
                "export": {"formats": ["gguf"]},
            }
        )
    )
    return path


@pytest.mark.parametrize("name", ["same", "zero"])
def test_an_untrained_expert_is_named_in_log_and_report(
    name: str, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    asked = recipe(folder, tmp_path, name, "adapter")
    with caplog.at_level(logging.WARNING):
        epmq.run(asked, tmp_path / "out")
    notes = json.loads((tmp_path / "out" / "report.json").read_text())["notes"]
    said = SENTENCE.format(name)
    assert said in notes and said in caplog.messages
    assert not any("./adapter" in note for note in notes)


@pytest.mark.parametrize("name", ["same", "zero"])
def test_a_merge_of_one_says_it_too(
    name: str, folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        epmq.merge(recipe(folder, tmp_path, name, "adapter"), tmp_path / "out")
    assert caplog.messages.count(SENTENCE.format(name)) == 1
    assert SENTENCE.format("adapter") not in caplog.messages


@pytest.mark.parametrize("job", [epmq.merge, epmq.run])
def test_an_adapter_of_what_stays_the_bases_alone_is_refused(job: object, tmp_path: Path) -> None:
    """CLIP's text tower is the base's, because it embeds the label texts."""
    assert callable(job)
    base = clip(tmp_path / "base")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(
            CLIPTextModel.from_pretrained(base), LoraConfig(r=2, target_modules=["q_proj"])
        )
        model.save_pretrained(tmp_path / "text")
    (tmp_path / "images").mkdir()
    tasks = {"one": {"expert": "./text", "calibration": "images"}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump({"base_model": "./base", "tasks": tasks}))
    with pytest.raises(
        InputError, match=r"text: the adapter changes text_model\..* alone, which stay the base's, expected"
    ):
        job(tmp_path / "recipe.yaml", tmp_path / "out")
