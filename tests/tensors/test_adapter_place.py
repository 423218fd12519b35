"""Where an adapter belongs in a base of two towers, by what it says of itself, against what peft merges."""

import json
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import CLIPModel, CLIPTextModel, CLIPVisionModel

from converters import naming
from epmq_export.errors import InputError
from epmq_export.tensors.checkpoint import Checkpoint, open_checkpoint
from tests.tiny import clip

VISION, TEXT = "vision_model.", "text_model."
CLASSES = {VISION: CLIPVisionModel, TEXT: CLIPTextModel, "": CLIPModel}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both towers have layers of the same sizes and number."""
    return clip.clip(tmp_path_factory.mktemp("place") / "base")


def trained(directory: Path, base: Path, tower: str, **settings: Any) -> dict[str, Tensor]:
    """Write an adapter that was trained on a tower, or on both, and return what peft merges."""
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        chosen = {"target_modules": ["q_proj", "v_proj"], **settings}
        model = get_peft_model(CLASSES[tower].from_pretrained(base), LoraConfig(r=4, lora_alpha=8, **chosen))
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "lora_B" in name:
                    parameter.normal_(std=0.05)
        model.save_pretrained(directory)
        merged = model.merge_and_unload().state_dict()
    return {tower + name.removeprefix(tower): value for name, value in merged.items()}


def renamed(adapter: Path, old: str, new: str) -> None:
    path = adapter / "adapter_model.safetensors"
    save_file({key.replace(old, new): value for key, value in load_file(path).items()}, path)


def said(adapter: Path, **changes: object) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def opened(adapter: Path, base: Path) -> Checkpoint:
    return open_checkpoint(adapter, open_checkpoint(base, naming_of=naming), naming_of=naming)


def changed(adapter: Path, base: Path, expected: dict[str, Tensor]) -> Sequence[str]:
    """Return the tensors that an adapter changes, each as peft merges it."""
    found, before = opened(adapter, base), load_file(base / "model.safetensors")
    for name in found.names():
        if not name.endswith("position_ids"):
            torch.testing.assert_close(
                found.load(name), expected.get(name, before[name]), rtol=1e-6, atol=1e-6
            )
    return [name for name in found.names() if not torch.equal(found.load(name), before[name])]


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("tower", [VISION, TEXT])
def test_an_adapter_of_one_tower(tower: str, old: bool, base: Path, tmp_path: Path) -> None:
    """Transformers 4 put the tower's name before those of its modules, version 5 does not."""
    expected = trained(tmp_path / "adapter", base, tower)
    renamed(tmp_path / "adapter", f"base_model.model.{tower}", "base_model.model.")
    if old:
        renamed(tmp_path / "adapter", "base_model.model.", f"base_model.model.{tower}")
    names = changed(tmp_path / "adapter", base, expected)
    assert len(names) == 2 * clip.LAYERS and all(name.startswith(tower) for name in names)


def test_an_adapter_of_both_towers(base: Path, tmp_path: Path) -> None:
    names = changed(tmp_path / "adapter", base, trained(tmp_path / "adapter", base, ""))
    assert {name.split(".")[0] for name in names} == {"vision_model", "text_model"}


def flat(directory: Path, base: Path, tower: str, **settings: Any) -> Path:
    """Write an adapter of a tower that does not say the class that it was trained on."""
    trained(directory, base, tower, **settings)
    renamed(directory, f"base_model.model.{tower}", "base_model.model.")
    said(directory, auto_mapping=None, task_type="FEATURE_EXTRACTION")
    return directory


def test_what_fits_in_two_places_is_refused_by_both_names(base: Path, tmp_path: Path) -> None:
    adapter = flat(tmp_path / "adapter", base, VISION)
    layer = "encoder.layers.0.self_attn.q_proj.weight"
    with pytest.raises(
        InputError,
        match=rf"adapter_model\.safetensors: the adapter's {layer} may be {TEXT}{layer} and {VISION}{layer}",
    ):
        opened(adapter, base)


def test_whole_tensors_alone_are_placed_in_the_same_way(base: Path, tmp_path: Path) -> None:
    adapter = flat(tmp_path / "adapter", base, TEXT, modules_to_save=["layer_norm1"])
    path = adapter / "adapter_model.safetensors"
    save_file({key: value for key, value in load_file(path).items() if "lora" not in key}, path)
    with pytest.raises(InputError, match=r"layer_norm1\.bias may be text_model\..* and vision_model\."):
        opened(adapter, base)
    said(adapter, auto_mapping={"base_model_class": "CLIPTextModel"})
    found = opened(adapter, base).changed or ()
    assert len(found) == 2 * clip.LAYERS and all(name.startswith(TEXT) for name in found)


def test_one_tensor_that_fits_in_one_place_decides_for_all(base: Path, tmp_path: Path) -> None:
    adapter = flat(tmp_path / "adapter", base, VISION, target_modules=["q_proj", "mlp.fc1"])
    narrow = clip.clip(tmp_path / "narrow", text={"intermediate_size": 64})
    assert min(opened(adapter, narrow).changed or "").startswith(VISION)


def test_a_tensor_that_is_saved_whole_decides_too(base: Path, tmp_path: Path) -> None:
    """All biases are saved, and some of their modules are in one tower alone."""
    adapter = flat(tmp_path / "adapter", base, VISION, bias="all")
    assert {name.split(".")[0] for name in opened(adapter, base).changed or ()} == {"vision_model"}


def test_a_place_with_more_of_the_target_modules_is_none(base: Path, tmp_path: Path) -> None:
    """The text tower is deeper: an adapter of all its layers would have changed more."""
    adapter = flat(tmp_path / "adapter", base, VISION)
    deep = clip.clip(tmp_path / "deep", text={"num_hidden_layers": clip.LAYERS + 1})
    assert min(opened(adapter, deep).changed or "").startswith(VISION)


def test_the_class_that_it_names_and_the_only_place_must_agree(base: Path, tmp_path: Path) -> None:
    adapter = flat(tmp_path / "adapter", base, VISION)
    said(adapter, auto_mapping={"base_model_class": "CLIPTextModel"})
    narrow = clip.clip(tmp_path / "narrow", text={"hidden_size": 32, "intermediate_size": 64})
    with pytest.raises(
        InputError,
        match=r"trained on a CLIPTextModel, .*, but in the base its tensors fit vision_model\..* alone",
    ):
        opened(adapter, narrow)


def test_an_adapter_that_fits_nowhere_names_its_own_base(base: Path, tmp_path: Path) -> None:
    adapter = flat(tmp_path / "adapter", base, VISION)
    said(adapter, base_model_name_or_path="org/another")
    narrow = {"hidden_size": 32, "intermediate_size": 64}
    with pytest.raises(InputError, match=r"which the base has not \(24 such\); .* trained on 'org/another'$"):
        opened(adapter, clip.clip(tmp_path / "narrow", text=narrow, vision=narrow))
