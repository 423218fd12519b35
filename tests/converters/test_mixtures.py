"""Mixtures of experts: files that hold a linear of all of them as one tensor, and adapters on single ones."""

import json
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import MixtralForCausalLM

import epmq_export as epmq
from converters import naming
from converters.from_gguf.checkpoint import GgufBase
from epmq_export.calibration.rounding import nearest
from epmq_export.errors import InputError
from epmq_export.grids import GRIDS
from epmq_export.tensors import packed_writer
from epmq_export.tensors.checkpoint import Fitted, open_checkpoint
from epmq_export.tensors.directory import WEIGHTS
from epmq_export.tensors.low_rank import low_rank_change
from epmq_export.tensors.packed import Packed, PackedTensor
from formats.gguf.format import Gguf
from tests.tiny import decoder
from tests.tiny import gguf as tiny_gguf
from tests.tiny.decoder_files import decoder_files, pack
from tests.tiny.packed_index import an_index

EXPERT = "model.layers.1.mlp.experts.2.up_proj.weight"
STACK = "blk.1.ffn_up_exps.weight"


def test_the_file_holds_experts_one_behind_the_other() -> None:
    files = decoder_files("qwen3_moe")
    reader = gguf.GGUFReader(files.gguf)
    (found,) = (tensor for tensor in reader.tensors if tensor.name == STACK)
    values = gguf.quants.dequantize(found.data, found.tensor_type)
    expected = files.packed.tensor(EXPERT)
    assert isinstance(expected, PackedTensor) and values.shape == (4, 32, 64)
    assert np.array_equal(values[2], expected.dequantise().numpy())
    keys = {name: field.contents() for name, field in reader.fields.items() if ".expert" in name}
    assert keys == {
        "qwen3moe.expert_count": 4,
        "qwen3moe.expert_used_count": 2,
        "qwen3moe.expert_feed_forward_length": 32,
    }
    assert reader.fields["general.size_label"].contents().startswith("4x")
    (router,) = (tensor for tensor in reader.tensors if tensor.name == "blk.1.ffn_gate_inp.weight")
    assert router.tensor_type == gguf.GGMLQuantizationType.F32


def test_what_lies_in_one_tensor_is_stored_alike(tmp_path: Path) -> None:
    held, family = pack(decoder.write(tmp_path / "model", "qwen3_moe"))
    tensors = {name: held.tensor(name) for name in held.names()}
    wider = nearest(torch.randn(32, 64), GRIDS["Q8_0"])
    packed_writer.write(tmp_path / "other", tensors | {EXPERT: wider}, an_index(family.name), held.directory)
    with pytest.raises(InputError) as error:
        Gguf().write(Packed(tmp_path / "other"), family, tmp_path)
    assert str(error.value) == (
        f"tensor {EXPERT} is Q8_0 [32, 64], expected Q4_0 [32, 64] as {EXPERT.replace('.2.', '.0.')}: GGUF "
        f"holds both in {STACK}"
    )


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (
            {"keys": {"qwen3moe.expert_count": 3}},
            "tensor blk.0.ffn_gate_exps.weight is of the shape [4, 32, 64], expected 3 matrices",
        ),
        (
            {"keys": {"qwen3moe.expert_count": 65536}},
            "tensor blk.0.ffn_gate_exps.weight is of the shape [4, 32, 64], expected 65536 matrices",
        ),
        (
            {"keys": {"qwen3moe.block_count": 65536}},
            "key qwen3moe.block_count is 65536, expected at most 27, the number of tensors",
        ),
        (
            {"drop": lambda name: name == STACK},
            f"tensor {STACK} is missing, expected 4 matrices",
        ),
        (
            {"keys": {"qwen3moe.expert_used_count": None}},
            "key qwen3moe.expert_used_count is missing, expected a number above 0",
        ),
        (
            {"keys": {"qwen3moe.expert_weights_scale": 2.0}},
            "key qwen3moe.expert_weights_scale is 2.0, expected none",
        ),
    ],
)
def test_a_file_of_another_mixture_is_refused(
    options: dict[str, object], sentence: str, tmp_path: Path
) -> None:
    source = decoder.write(tmp_path / "source", "qwen3_moe")
    path = tiny_gguf.write(tmp_path / "model.gguf", source, "qwen3moe", **options)  # type: ignore[arg-type]
    with pytest.raises(InputError) as error:
        open_checkpoint(path, open_gguf=GgufBase)
    assert str(error.value) == f"{path}: {sentence}"


@pytest.mark.parametrize("kind", ["qwen3_moe", "mixtral"])
def test_a_model_whose_experts_are_stored_as_one_tensor_is_the_same(kind: str, tmp_path: Path) -> None:
    """transformers reads both, and mixtral's router under two names."""
    model = decoder.model(kind)
    places = {original: tmp_path / str(original) for original in (True, False)}
    for original, place in places.items():
        model.save_pretrained(place, save_original_format=original)
    apart, stacked = (open_checkpoint(place, naming_of=naming) for place in places.values())
    there = load_file(places[False] / WEIGHTS)
    assert there["model.layers.1.mlp.experts.gate_up_proj"].ndim == 3
    found = Fitted(stacked, apart)
    assert found.names() == apart.names() and not found.notes
    for name in apart.names():
        expected, reader = apart.load(name), found.row_reader(name)
        assert found.shape(name) == expected.shape and found.dtype(name) == expected.dtype
        assert torch.equal(found.load(name), expected)
        assert reader is not None and torch.equal(reader(1, 3), expected[1:3])


def test_a_merge_of_experts_that_are_stored_as_one_tensor_is_one_that_the_library_reads(
    tmp_path: Path,
) -> None:
    base = tmp_path / "base"
    decoder.model("mixtral").save_pretrained(base, save_original_format=False)
    decoder.tokenizer().save_pretrained(base)
    expert = decoder.write_expert(tmp_path / "expert", base, "mixtral", 1)
    models = [{"model": str(place), "parameters": {"weight": 0.5}} for place in (base, expert)]
    recipe = {"merge_method": "linear", "base_model": str(base), "models": models}
    (tmp_path / "recipe.yaml").write_text(json.dumps(recipe))
    epmq.merge(tmp_path / "recipe.yaml", tmp_path / "merged")
    places = (tmp_path / "merged", base, expert)
    merged, ours, theirs = (MixtralForCausalLM.from_pretrained(each).state_dict() for each in places)
    for name, value in merged.items():
        torch.testing.assert_close(value, (ours[name] + theirs[name]) / 2)


@pytest.mark.parametrize(
    ("shape", "more", "sentence"),
    [
        ([4, 7, 64], {}, "tensor {} has shape [4, 7, 64], expected [experts, a multiple of 2, width]"),
        ([8, 64], {}, "tensor {} has shape [8, 64], expected [experts, a multiple of 2, width]"),
        (
            [4, 8, 64],
            {"model.layers.0.mlp.experts.3.w3.weight": [4, 64]},
            "tensor model.layers.0.mlp.experts.3.w3.weight is stored, and as a part of {}, too; expected",
        ),
    ],
)
def test_a_tensor_that_cannot_hold_all_experts_is_refused(
    shape: list[int], more: dict[str, list[int]], sentence: str, tmp_path: Path
) -> None:
    name = "model.layers.0.mlp.experts.gate_up_proj"
    save_file({each: torch.ones(of) for each, of in {name: shape, **more}.items()}, tmp_path / WEIGHTS)
    (tmp_path / "config.json").write_text('{"model_type": "mixtral"}')
    with pytest.raises(InputError) as error:
        open_checkpoint(str(tmp_path), naming_of=naming)
    assert str(error.value).startswith(f"{tmp_path}: {sentence.format(name)}")


ADAPTED: dict[str, dict[str, Any]] = {
    "the library's own names": {"target_modules": "all-linear"},
    "single tensors": {
        "target_modules": ["q_proj"],
        "target_parameters": ["mlp.experts.gate_up_proj", "experts.down_proj", "gate.weight"],
        "rank_pattern": {"experts.down_proj": 3, "gate": 5},
        "alpha_pattern": {"gate_up_proj": 5, "gate.weight": 2},
        "use_rslora": True,
    },
    "one tensor": {"target_modules": [], "target_parameters": ["experts.down_proj"]},
    "whole": {"target_modules": ["q_proj"], "modules_to_save": ["experts", "gate"]},
}


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")  # PEFT's doing
@pytest.mark.filterwarnings("ignore:The following .*_pattern keys did not match:RuntimeWarning")  # They did.
@pytest.mark.parametrize("settings", ADAPTED.values(), ids=ADAPTED)
@pytest.mark.parametrize("kind", ["qwen3_moe", "olmoe", "mixtral"])
def test_an_adapter_on_all_experts_together_is_what_peft_merges(
    kind: str, settings: dict[str, Any], tmp_path: Path
) -> None:
    base, model = tmp_path / "base", decoder.model(kind)
    model.save_pretrained(base)
    live: Any = get_peft_model(model, LoraConfig(r=2, lora_alpha=8, **settings))
    with torch.no_grad():
        for value in live.parameters():
            if value.requires_grad:
                value += 0.05 * torch.randn_like(value)
    live.save_pretrained(str(tmp_path / "adapter"))
    live.merge_and_unload().save_pretrained(tmp_path / "merged")
    plain = open_checkpoint(base, naming_of=naming)
    expected = open_checkpoint(tmp_path / "merged", plain, naming_of=naming)
    found = open_checkpoint(tmp_path / "adapter", plain)
    assert found.names() == expected.names() and not found.notes
    assert found.changed is not None and found.changed >= {
        name for name in plain.names() if not torch.equal(expected.load(name), plain.load(name))
    }
    for name in found.names():
        torch.testing.assert_close(found.load(name), expected.load(name), rtol=1e-5, atol=1e-6)
        if (change := low_rank_change(found, name)) is not None:
            made = change.origin() + change.product.dense()
            torch.testing.assert_close(made, found.load(name), rtol=1e-5, atol=1e-6)


def test_factors_that_fit_no_tensor_of_all_experts(tmp_path: Path) -> None:
    base = open_checkpoint(decoder.write(tmp_path / "base", "qwen3_moe"), naming_of=naming)
    adapter, module = tmp_path / "adapter", "base_model.model.model.layers.0.mlp.experts"
    adapter.mkdir()
    config = {"peft_type": "LORA", "r": 2, "target_parameters": ["experts.down_proj"]}
    (adapter / "adapter_config.json").write_text(json.dumps(config))
    factors = {f"{module}.lora_A.weight": torch.ones(8, 24), f"{module}.lora_B.weight": torch.ones(64, 8)}
    save_file(factors, adapter / "adapter_model.safetensors")
    told = r"experts are of shapes \(8, 24\) and \(64, 8\), .* tensors: gate_up_proj \[4, 64, 64\], down_proj"
    with pytest.raises(InputError, match=told):
        open_checkpoint(adapter, base)
    dense = open_checkpoint(decoder.write(tmp_path / "dense", "qwen2"), naming_of=naming)
    with pytest.raises(InputError, match=r"target_parameters is \['experts.down_proj'\], expected none, or"):
        open_checkpoint(adapter, dense)
    factors.popitem()
    save_file(factors, adapter / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"experts has only .*lora_A.weight, expected A and B"):
        open_checkpoint(adapter, base)


def test_an_adapter_changes_the_attention_and_single_experts(tmp_path: Path) -> None:
    base = decoder.write(tmp_path / "base", "qwen3_moe")
    (tmp_path / "adapter").mkdir()
    config = {"peft_type": "LORA", "r": 1, "lora_alpha": 2}
    (tmp_path / "adapter" / "adapter_config.json").write_text(json.dumps(config))
    plain, moved = open_checkpoint(str(base)), ("model.layers.0.self_attn.q_proj.weight", EXPERT)
    factors = {}
    for name in moved:
        rows, columns = (torch.ones(count, 1) for count in plain.shape(name))
        path = f"base_model.model.{name.removesuffix('.weight')}"
        factors |= {f"{path}.lora_A.weight": columns.T, f"{path}.lora_B.weight": rows}
    save_file(factors, tmp_path / "adapter" / "adapter_model.safetensors")
    found = open_checkpoint(str(tmp_path / "adapter"), plain)
    for name in plain.names():
        assert torch.equal(found.load(name), plain.load(name) + (2 if name in moved else 0))
