"""LoRA adapters against what `peft` itself merges."""

import json
import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers import BertConfig, BertForSequenceClassification, BertModel, GPT2Config, GPT2Model

from epmq_export.errors import InputError
from epmq_export.tensors.checkpoint import open_checkpoint
from epmq_export.tensors.compatible import require_fit
from epmq_export.tensors.source import renamed

QUERY = "encoder.layer.0.attention.self.query.weight"


def bert(kind: type[nn.Module] = BertModel) -> nn.Module:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=50,
        hidden_size=16,
        num_hidden_layers=2,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=12,
        num_labels=3,
    )
    return kind(config).eval()


def trained(model: nn.Module, config: LoraConfig) -> PeftModel:
    """Return the model with an adapter whose every parameter has moved, as after training."""
    adapted = get_peft_model(model, config)
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn(parameter.shape, generator=generator) * 0.1)
    return adapted


def save(tmp_path: Path, model: nn.Module, config: LoraConfig) -> tuple[Path, Path, dict[str, Tensor]]:
    """The base's and the adapter's directories, and the tensors that peft merges."""
    base, adapter = tmp_path / "base", tmp_path / "adapter"
    model.save_pretrained(base)
    with warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # peft's own: that embeddings are saved, that what it calls in transformers is deprecated
        adapted = trained(model, config)
        adapted.save_pretrained(adapter)
        merged = adapted.merge_and_unload().state_dict()
    return base, adapter, {name: tensor.detach().clone() for name, tensor in merged.items()}


def set_config(adapter: Path, **changes: object) -> None:
    path = adapter / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


CONFIGS: dict[str, dict[str, Any]] = {
    "plain": {"r": 4, "lora_alpha": 8, "target_modules": ["query", "value"]},
    "rank-stabilised": {"r": 4, "lora_alpha": 8, "use_rslora": True, "target_modules": ["query", "dense"]},
    # Two rank patterns fit output.dense, and peft saves them sorted, the other one first.
    "patterns": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["query", "key", "dense"],
        "rank_pattern": {r"layer\.1\.attention\.self\.(query|key)": 2, "output.dense": 8, "dense": 3},
        "alpha_pattern": {"attention.self.query": 32, r"^encoder\.layer\.0\.intermediate\.dense": 5},
    },
    "patterns, rank-stabilised": {
        "r": 4,
        "lora_alpha": 8,
        "use_rslora": True,
        "target_modules": ["query"],
        "rank_pattern": {"query": 2},
        "alpha_pattern": {"1.+": 3},
    },
    "embeddings": {"r": 4, "lora_alpha": 8, "target_modules": ["word_embeddings", "query"]},
    "modules to save": {
        "r": 4,
        "lora_alpha": 8,
        "target_modules": ["query"],
        "modules_to_save": ["pooler", "encoder.layer.0.output.LayerNorm"],
    },
    "all biases": {"r": 4, "lora_alpha": 8, "target_modules": ["query", "dense"], "bias": "all"},
    "its biases": {"r": 4, "lora_alpha": 8, "target_modules": ["query", "dense"], "bias": "lora_only"},
    "bias of B": {"r": 4, "lora_alpha": 16, "target_modules": ["query"], "lora_bias": True},
}


@pytest.mark.parametrize("name", list(CONFIGS))
def test_it_is_what_peft_merges(name: str, tmp_path: Path) -> None:
    base, adapter, expected = save(tmp_path, bert(), LoraConfig(**CONFIGS[name]))
    source = open_checkpoint(adapter, base=open_checkpoint(base))
    before = load_file(base / "model.safetensors")
    assert source.names() == sorted(before)
    changed = 0
    for tensor in source.names():
        got = source.load(tensor)
        torch.testing.assert_close(got, expected[tensor], rtol=1e-6, atol=1e-6)
        assert source.shape(tensor) == tuple(got.shape) and source.dtype(tensor) == got.dtype
        changed += not torch.equal(got, before[tensor])
    assert changed >= 2  # or the comparison would say nothing


def test_transposed_weights(tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = GPT2Model(GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2)).eval()
    base, adapter, expected = save(
        tmp_path, model, LoraConfig(r=2, lora_alpha=4, target_modules=["c_attn"], fan_in_fan_out=True)
    )
    source = open_checkpoint(adapter, base=open_checkpoint(base))
    torch.testing.assert_close(
        source.load("h.0.attn.c_attn.weight"), expected["h.0.attn.c_attn.weight"], rtol=1e-6, atol=1e-6
    )
    assert not torch.equal(
        source.load("h.0.attn.c_attn.weight"), load_file(base / "model.safetensors")["h.0.attn.c_attn.weight"]
    )


@pytest.mark.parametrize("targets", [["query", "value"], ["intermediate.dense", "word_embeddings"]])
def test_linears_are_never_transposed_whatever_the_setting_says(targets: list[str], tmp_path: Path) -> None:
    """Settings made for GPT-2 are copied, and old versions of peft saved what they did not use."""
    base, adapter, expected = save(tmp_path, bert(), LoraConfig(r=2, target_modules=targets))
    set_config(adapter, fan_in_fan_out=True)
    source = open_checkpoint(adapter, base=open_checkpoint(base))
    for name in source.names():
        torch.testing.assert_close(source.load(name), expected[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("said", [True, False])
@pytest.mark.parametrize("target", ["c_attn", "attn.c_proj", "mlp.c_proj", "wte"])
def test_transposed_modules_are_always_transposed(target: str, said: bool, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = GPT2Model(GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=1, n_head=2)).eval()
    base, adapter, expected = save(
        tmp_path, model, LoraConfig(r=2, target_modules=[target], fan_in_fan_out=target != "wte")
    )
    set_config(adapter, fan_in_fan_out=said)
    source = open_checkpoint(adapter, base=open_checkpoint(base))
    for name in source.names():
        torch.testing.assert_close(source.load(name), expected[name], rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("adapter_has_prefix", [True, False])
def test_a_prefix_on_one_side_only(adapter_has_prefix: bool, tmp_path: Path) -> None:
    """An adapter trained on a classifier fits the bare encoder, head left out, and the other way round."""
    kinds = (
        (BertForSequenceClassification, BertModel)
        if adapter_has_prefix
        else (BertModel, BertForSequenceClassification)
    )
    trained_on, base = bert(kinds[0]), bert(kinds[1])
    config = LoraConfig(r=2, target_modules=["query"], task_type="SEQ_CLS" if adapter_has_prefix else None)
    _, adapter, _ = save(tmp_path / "trained", trained_on, config)
    base.save_pretrained(tmp_path / "base")
    own = open_checkpoint(tmp_path / "base")
    source = open_checkpoint(adapter, base=own)
    name = QUERY if adapter_has_prefix else "bert." + QUERY
    factors = load_file(adapter / "adapter_model.safetensors")
    key = "base_model.model." + ("bert." if adapter_has_prefix else "") + QUERY.removesuffix(".weight")
    change = factors[key + ".lora_B.weight"] @ factors[key + ".lora_A.weight"] * (8 / 2)
    torch.testing.assert_close(source.load(name), own.load(name) + change, rtol=1e-6, atol=1e-6)

    def canonical(tensor: str) -> str | None:
        return None if tensor.startswith("classifier") else tensor.removeprefix("bert.")

    require_fit(renamed(own, canonical), renamed(source, canonical), "adapter")
    if adapter_has_prefix:
        assert {"classifier.weight", "classifier.bias"} <= set(source.names())


def test_a_half_precision_base_loses_nothing_of_the_change(tmp_path: Path) -> None:
    base, adapter, _ = save(tmp_path, bert().to(torch.bfloat16), LoraConfig(r=2, target_modules=["query"]))
    own = open_checkpoint(base)
    source = open_checkpoint(adapter, base=own)
    factors = {
        key: tensor.float() for key, tensor in load_file(adapter / "adapter_model.safetensors").items()
    }
    key = "base_model.model." + QUERY.removesuffix(".weight")
    expected = own.load(QUERY).float() + factors[key + ".lora_B.weight"] @ factors[key + ".lora_A.weight"] * 4
    assert own.dtype(QUERY) == torch.bfloat16 and source.dtype(QUERY) == torch.float32
    torch.testing.assert_close(source.load(QUERY), expected, rtol=1e-6, atol=1e-7)
    assert source.dtype("pooler.dense.weight") == torch.bfloat16


@pytest.fixture
def saved(tmp_path: Path) -> tuple[Path, Path]:
    base, adapter, _ = save(tmp_path, bert(), LoraConfig(r=2, target_modules=["query"]))
    return base, adapter


def test_base_and_adapter_in_one_name(saved: tuple[Path, Path], tmp_path: Path) -> None:
    base, adapter = saved
    source = open_checkpoint("base+adapter", relative_to=tmp_path)
    assert torch.equal(source.load(QUERY), open_checkpoint(adapter, base=open_checkpoint(base)).load(QUERY))
    assert source.location == "base+adapter" and source.directory == adapter
    assert {path.parent.name for path in source.files()} == {
        "base",
        "adapter",
    }  # here the base is the adapter's own
    with pytest.raises(InputError, match="adapter_config"):
        open_checkpoint("base+base", relative_to=tmp_path)


def test_its_files_are_the_adapters(saved: tuple[Path, Path]) -> None:
    base, adapter = saved
    assert open_checkpoint(adapter, base=open_checkpoint(base)).files() == [
        adapter / "adapter_config.json",
        adapter / "adapter_model.safetensors",
    ]


def test_an_adapter_alone_asks_for_its_base(saved: tuple[Path, Path]) -> None:
    with pytest.raises(InputError, match="is a LoRA adapter: name it with the model that it was trained on"):
        open_checkpoint(saved[1])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"use_dora": True},
            "use_dora is set, but only plain LoRA can be merged: DoRA .*; where peft merges",
        ),
        ({"peft_type": "IA3"}, "peft_type is 'IA3', expected 'LORA'"),
        ({"use_qalora": True}, "use_qalora is set"),
        ({"layer_replication": [[0, 1]]}, "layer_replication is set"),
        ({"use_newlora": True}, "use_newlora is True, a setting that this version does not know"),
        (
            {"init_lora_weights": "pissa_niter_4"},
            "init_lora_weights is 'pissa_niter_4', which changes the base's weights",
        ),
        (
            {"r": 3},
            (
                r"encoder\.layer\.0\.attention\.self\.query\.lora_A\.weight has rank 2, adapter_config\.json "
                r"says 3"
            ),
        ),
        ({"r": "2"}, "r of .* is '2', expected a number"),
        ({"lora_alpha": "8"}, "lora_alpha of .* is '8', expected a number"),
        ({"alpha_pattern": {"(": 1}}, r"alpha_pattern '\(' is no regular expression"),
        ({"rank_pattern": [2]}, "rank_pattern is a list, expected an object"),
    ],
)
def test_configurations_that_mean_something_else(
    saved: tuple[Path, Path], changes: dict[str, Any], message: str
) -> None:
    base, adapter = saved
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(InputError, match=message):
        open_checkpoint(adapter, base=open_checkpoint(base))


def test_a_setting_that_is_off_is_no_matter(saved: tuple[Path, Path]) -> None:
    base, adapter = saved
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps({**config, "use_newlora": False, "newlora_config": None})
    )
    assert open_checkpoint(adapter, base=open_checkpoint(base)).names()


def test_several_alphas_for_one_module_are_said(
    saved: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    base, adapter = saved
    config = json.loads((adapter / "adapter_config.json").read_text())
    (adapter / "adapter_config.json").write_text(
        json.dumps({**config, "alpha_pattern": {"query": 2, "self.query": 4}})
    )
    with caplog.at_level(logging.WARNING):
        source = open_checkpoint(adapter, base=open_checkpoint(base))
    assert (
        "alpha_pattern has [2, 4] for encoder.layer.0.attention.self.query; taking the first in the file, "
        "as peft does"
    ) in caplog.text
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = PeftModel.from_pretrained(bert(), adapter).merge_and_unload().state_dict()
    torch.testing.assert_close(source.load(QUERY), expected[QUERY], rtol=1e-6, atol=1e-6)


def test_a_state_dict_with_the_adapters_own_name(saved: tuple[Path, Path]) -> None:
    """Read an adapter that was saved without peft, whose names keep the adapter's own."""
    base, adapter = saved
    expected = open_checkpoint(adapter, base=open_checkpoint(base)).load(QUERY)
    tensors = load_file(adapter / "adapter_model.safetensors")
    named = {key.replace(".weight", ".default.weight"): tensor for key, tensor in tensors.items()}
    save_file(named, adapter / "adapter_model.safetensors")
    assert torch.equal(open_checkpoint(adapter, base=open_checkpoint(base)).load(QUERY), expected)


def test_a_whole_model_with_factors_that_are_not_merged_is_refused(tmp_path: Path) -> None:
    base, _, _ = save(tmp_path, bert(), LoraConfig(r=2, target_modules=["query"]))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = get_peft_model(bert(), LoraConfig(r=2, target_modules=["query"]))
    tensors = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    save_file(tensors, base / "model.safetensors")
    with pytest.raises(InputError, match=r"found .*lora_A.*, expected no factors .* after merge_and_unload"):
        open_checkpoint(base)


def test_factors_that_zero_3_has_left_empty(saved: tuple[Path, Path]) -> None:
    base, adapter = saved
    tensors = load_file(adapter / "adapter_model.safetensors")
    save_file({key: torch.empty(0) for key in tensors}, adapter / "adapter_model.safetensors")
    with pytest.raises(InputError, match=r"of shapes \(0,\) and \(0,\) and hold nothing, as DeepSpeed"):
        open_checkpoint(adapter, base=open_checkpoint(base))


KEY = "base_model.model.encoder.layer.0.attention.self.query"


def drop_a_factor(tensors: dict[str, Tensor]) -> None:
    del tensors[KEY + ".lora_B.weight"]


def add_a_magnitude(tensors: dict[str, Tensor]) -> None:
    tensors[KEY + ".lora_magnitude_vector"] = torch.ones(16)


def rename_a_module(tensors: dict[str, Tensor]) -> None:
    for part in (".lora_A.weight", ".lora_B.weight"):
        tensors[KEY.replace("query", "gate") + part] = tensors.pop(KEY + part)


def widen_a_factor(tensors: dict[str, Tensor]) -> None:
    tensors[KEY + ".lora_A.weight"] = torch.ones(2, 17)


def fold_a_factor(tensors: dict[str, Tensor]) -> None:
    tensors[KEY + ".lora_B.weight"] = torch.ones(16, 2, 1, 1)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (drop_a_factor, f"has only {KEY}.lora_A.weight, expected an A and a B"),
        (add_a_magnitude, f"tensor {KEY}.lora_magnitude_vector is none that a LoRA adapter has"),
        (
            rename_a_module,
            (
                r"the adapter changes encoder\.layer\.0\.attention\.self\.gate\.weight, which the base "
                r"has not "
                r"\(1 such\)"
            ),
        ),
        (
            widen_a_factor,
            (
                r"change of encoder\.layer\.0\.attention\.self\.query\.weight is of shape \(16, 17\), the "
                r"base's is \(16, 16\)"
            ),
        ),
        (fold_a_factor, r"are of shapes \(2, 16\) and \(16, 2, 1, 1\), expected \[r, in\] and \[out, r\]"),
        (dict.clear, "holds no tensors"),
    ],
)
def test_files_that_do_not_fit(
    saved: tuple[Path, Path], spoil: Callable[[dict[str, Tensor]], None], message: str
) -> None:
    base, adapter = saved
    tensors = load_file(adapter / "adapter_model.safetensors")
    spoil(tensors)
    save_file(tensors, adapter / "adapter_model.safetensors")
    with pytest.raises(InputError, match=message):
        open_checkpoint(adapter, base=open_checkpoint(base))


def test_missing_parts_and_two_in_one(saved: tuple[Path, Path]) -> None:
    base, adapter = saved
    own = open_checkpoint(base)
    with safe_open(base / "model.safetensors", "pt") as file:
        save_file({QUERY: file.get_tensor(QUERY)}, adapter / "model.safetensors")
    with pytest.raises(InputError, match="holds both an adapter"):
        open_checkpoint(adapter, base=own)
    (adapter / "model.safetensors").unlink()
    (adapter / "adapter_model.safetensors").rename(adapter / "elsewhere")
    with pytest.raises(InputError, match=r"adapter_model\.safetensors: no such file"):
        open_checkpoint(adapter, base=own)
    (adapter / "elsewhere").rename(adapter / "adapter_model.safetensors")
    (adapter / "adapter_config.json").unlink()
    with pytest.raises(InputError, match=r"adapter_config\.json: no such file"):
        open_checkpoint(adapter, base=own)
