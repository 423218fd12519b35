"""Mixtures of experts: files that hold a linear of all of them as one tensor, and adapters on single ones."""

import json
from pathlib import Path

import gguf
import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from converters.from_gguf.checkpoint import GgufBase
from epmq_export.calibration.rounding import nearest
from epmq_export.errors import InputError
from epmq_export.grids import GRIDS
from epmq_export.tensors import packed_writer
from epmq_export.tensors.checkpoint import open_checkpoint
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
