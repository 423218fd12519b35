"""Adapters that say that they were trained on another model than the base."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import save_file

from converters import naming
from converters.from_gguf.checkpoint import GgufBase
from epmq_export.pipeline.models import open_checkpoints
from epmq_export.pipeline.trained_on import of_another_base
from epmq_export.recipe.load import load_recipe
from tests.tiny import decoder
from tests.tiny import gguf as tiny_gguf

MODULE = "base_model.model.model.layers.0.self_attn.o_proj"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with a base in two places."""
    place = tmp_path_factory.mktemp("trained_on")
    base = decoder.write(place / "Tiny-Base", "qwen2")
    tiny_gguf.write(place / "tiny-base-f32.gguf", base, "qwen2")
    return place


def told(folder: Path, base: str, adapters: Mapping[str, str]) -> list[str]:
    """Return the sentences on adapters by their names, with what each says of its base."""
    models = []
    for name, said in adapters.items():
        (folder / name).mkdir(exist_ok=True)
        config = {"peft_type": "LORA", "r": 1, "base_model_name_or_path": said}
        (folder / name / "adapter_config.json").write_text(json.dumps(config))
        factors = {f"{MODULE}.lora_A.weight": torch.ones(1, 64), f"{MODULE}.lora_B.weight": torch.ones(64, 1)}
        save_file(factors, folder / name / "adapter_model.safetensors")
        models.append({"model": f"./{name}"})
    recipe = folder / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump({"base_model": base, "merge_method": "task_arithmetic", "models": models})
    )
    loaded = load_recipe(recipe)
    opened = open_checkpoints(loaded, GgufBase, naming)
    return of_another_base(loaded, opened.base, opened.experts)


@pytest.mark.parametrize("base", ["./Tiny-Base", "./tiny-base-f32.gguf"])
@pytest.mark.parametrize(
    "said",
    [
        "",
        "org/tiny-base",
        "org/Tiny-Base@main",
        "/content/models/Tiny-Base/",
        "C:\\models\\Tiny-Base",
        "/home/me/.cache/huggingface/hub/models--org--Tiny-Base/snapshots/0123abc",
    ],
)
def test_the_base_in_another_place_is_the_base(folder: Path, base: str, said: str) -> None:
    assert told(folder, base, {"one": said}) == []


def test_each_other_model_is_told_once(folder: Path) -> None:
    adapters = {"one": "org/Tiny-Chat", "two": "Tiny-Base", "three": "org/Tiny-Chat"}
    assert told(folder, "./Tiny-Base", adapters) == [
        "./one, ./three: adapter_config.json says that it was trained on 'org/Tiny-Chat', and the base is "
        "./Tiny-Base: it is right only where both are one model"
    ]


def test_the_config_may_say_what_the_base_is_called(folder: Path) -> None:
    path = folder / "Tiny-Base" / "config.json"
    before = path.read_text()
    path.write_text(json.dumps({**json.loads(before), "_name_or_path": "org/Tiny-Chat"}))
    assert told(folder, "./Tiny-Base", {"one": "org/Tiny-Chat"}) == []
    path.write_text(before)
