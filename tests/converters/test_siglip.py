"""SigLIP: its three ONNX models beside transformers, a whole run, and what is refused."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from transformers import SiglipConfig, SiglipModel

from converters import naming, open_family
from epmq_export.errors import InputError
from epmq_export.models.processor import preprocess
from epmq_export.tensors.packed import Packed, PackedTensor
from epmq_export.verification.checks import check_codes, check_graph, check_metadata
from epmq_export.verification.probes import hard_pictures
from epmq_export.verification.runtimes.onnxruntime.runtime import OnnxRuntime, open_session
from formats.gguf.spec import spec_of
from formats.onnx.format import OnnxQdq
from tests.command_line.command import Warm
from tests.tiny import siglip as tiny
from tests.tiny.encoders import packed_encoder
from tests.tiny.vit import pictures

TEXTS = ["the cat", "A DOG and a cat", ""]


def values(packed: Packed) -> dict[str, torch.Tensor]:
    loaded = {name: packed.load(name) for name in packed.names()}
    return {
        name: value.dequantise() if isinstance(value, PackedTensor) else value.float()
        for name, value in loaded.items()
    }


@torch.no_grad()
def test_three_models_on_a_grid_compute_what_transformers_does(tmp_path: Path) -> None:
    packed, family = packed_encoder(tmp_path / "packed", tiny.siglip(tmp_path / "model"))
    linears = 6 * 2 + 3  # Those of two layers, and of the head that pools.
    assert len(packed.grids) == linears and not any("text_model" in name for name in packed.grids)
    path = OnnxQdq().write(packed, family, tmp_path / "onnx")
    written = OnnxQdq().open(path, family)
    assert OnnxRuntime().notes([path]) == {"fused": linears}
    for check in (
        check_codes(written, packed, OnnxQdq().left_out(family), [OnnxRuntime()]),
        check_metadata(written, packed),
        check_graph(written, packed, family.exports["onnx"], OnnxRuntime(), 1e-5),
    ):
        assert not check.broken, check
    model: Any = SiglipModel(SiglipConfig.from_pretrained(tmp_path / "model")).eval()
    model.load_state_dict(values(packed))
    whole: Any = family
    shown = hard_pictures()[3:7]
    pixels, ids = (
        preprocess(whole.processor, shown),
        whole.text_tower.tokenizer(TEXTS, padding="max_length", max_length=tiny.LONGEST, return_tensors="np")[
            "input_ids"
        ],
    )
    expected = model(input_ids=torch.from_numpy(ids), pixel_values=torch.from_numpy(pixels))
    np.testing.assert_allclose(
        OnnxRuntime().outputs(path, shown, exact=True), expected.vision_model_output.pooler_output, atol=1e-5
    )
    # The runtime pads texts as the model's users do.
    np.testing.assert_allclose(
        OnnxRuntime().outputs(path, TEXTS, exact=True), expected.text_model_output.pooler_output, atol=1e-5
    )
    joint = open_session(path.with_name(path.name.replace("vision_model", "model")), exact=True)
    names = [value.name for value in joint.get_outputs()]
    found = dict(zip(names, joint.run(names, {"input_ids": ids, "pixel_values": pixels}), strict=True))
    for name in ("logits_per_image", "logits_per_text", "text_embeds", "image_embeds"):
        np.testing.assert_allclose(found[name], getattr(expected, name), atol=1e-4)


def test_a_run_of_two_image_towers(tmp_path: Path, epmq: Warm) -> None:
    """Label texts are embedded by the base's text tower, which stays as it is."""
    base = tiny.siglip(tmp_path / "base")
    tasks = {}
    for seed, name in enumerate(("bare", "named")):
        tiny.vision_expert(tmp_path / name, base, seed + 1, prefix=name == "named")
        pixels, _ = pictures(16, seed)
        np.savez(tmp_path / f"{name}.npz", seen=pixels[:8], shown=pixels[8:])
        tasks[name] = {
            "expert": f"./{name}",
            "calibration": {"path": f"{name}.npz", "images": "seen"},
            "evaluation": {"path": f"{name}.npz", "images": "shown"},
        }
    recipe = {"base_model": "./base", "tasks": tasks, "calibration": {"samples": 8, "refine": False}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(recipe))
    planned = epmq("run", "--dry-run", "recipe.yaml", folder=tmp_path)
    assert planned.code == 0 and "text_model_q4.onnx" in planned.stdout, planned.stderr
    result = epmq("run", "recipe.yaml", "-o", "out", folder=tmp_path)
    assert result.code == 0, result.stderr
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [file["checks"]["graph"]["value"] < 1e-5 for file in report["files"]] == [True]
    merged, stored = values(Packed(tmp_path / "out" / "packed")), values_of(base)
    for name in ("logit_bias", "text_model.head.bias", "text_model.final_layer_norm.weight"):
        assert torch.equal(merged[name], stored[name])
    assert not torch.equal(merged["vision_model.head.probe"], stored["vision_model.head.probe"])


def values_of(directory: Path) -> dict[str, torch.Tensor]:
    return SiglipModel.from_pretrained(directory).state_dict()


@pytest.mark.parametrize(
    ("part", "changes", "said"),
    [
        (
            "text_config",
            {"projection_size": 32},
            "found text_config.projection_size 32, expected 64",
        ),
        ("vision_config", {"vision_use_head": False}, "found vision_use_head False, expected True: family"),
        ("vision_config", {"hidden_act": "relu"}, "found hidden_act 'relu', expected 'gelu_pytorch_tanh' or"),
    ],
)
def test_configs_that_are_refused(tmp_path: Path, part: str, changes: dict[str, Any], said: str) -> None:
    place = tiny.siglip(tmp_path / "model") / "config.json"
    config = json.loads(place.read_text())
    place.write_text(json.dumps(config | {part: config[part] | changes}))
    with pytest.raises(InputError, match=f"config.json: {said}"):
        open_family(tmp_path / "model")


def test_pictures_of_any_size_and_gguf_are_refused(tmp_path: Path) -> None:
    directory = tiny.siglip(tmp_path / "model")
    with pytest.raises(InputError, match="found the family siglip, which no runtime reads as GGUF"):
        spec_of(open_family(directory))
    place = directory / "config.json"
    place.write_text(json.dumps(json.loads(place.read_text()) | {"model_type": "siglip2"}))
    with pytest.raises(InputError, match="model_type is 'siglip2', whose pictures have no size of their own"):
        open_family(directory)


def test_names_of_an_image_tower_and_of_a_classifier_are_read(tmp_path: Path) -> None:
    names = naming(tiny.siglip(tmp_path / "model"))
    for plain in ("head.probe", "encoder.layers.0.layer_norm1.bias", "post_layernorm.weight"):
        assert names.canonical(plain) == names.canonical(f"vision_model.{plain}") == f"vision_model.{plain}"
    assert names.canonical("classifier.weight") is None
