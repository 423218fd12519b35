"""Experts that part a head from the embeddings that it was tied to, against the live adapter of peft."""

import shutil
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GPT2Config, GPT2LMHeadModel

from converters import naming, open_family
from converters.from_gguf.checkpoint import GgufBase
from epmq_export.errors import InputError
from epmq_export.merging.hf_directory import write_merged
from epmq_export.pipeline.merge import merge
from epmq_export.pipeline.models import Checkpoints, open_checkpoints, open_models
from epmq_export.recipe.load import load_recipe
from epmq_export.recipe.recipe import Recipe
from tests.tiny import decoder, t5

TIED = ("llama, tied", "qwen3", "gemma3", "smollm3")
IDS = torch.arange(5, 25)[None]
# By name: the settings of an adapter, and whether its head is another tensor than its embeddings.
KINDS: Mapping[str, tuple[dict[str, Any], bool]] = {
    "head": ({"target_modules": ["q_proj", "lm_head"]}, True),
    "both saved": ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens", "lm_head"]}, True),
    "embeddings saved": ({"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"]}, True),
    "embeddings adapted": ({"target_modules": ["q_proj", "embed_tokens"]}, True),
    "saved, tied": (
        {"target_modules": ["q_proj"], "modules_to_save": ["embed_tokens"], "ensure_weight_tying": True},
        False,
    ),
    "adapted, tied": (
        {"target_modules": ["q_proj", "embed_tokens"], "ensure_weight_tying": True},
        False,
    ),
    "neither": ({"target_modules": ["q_proj"]}, False),
}


def trained(adapter: Path, model: Any, ids: Mapping[str, Tensor], save: object, **settings: Any) -> Tensor:
    """Write an adapter and return the scores of the model with it."""
    torch.manual_seed(3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        live = get_peft_model(model, LoraConfig(r=4, lora_alpha=8, **settings))
        with torch.no_grad():
            for parameter in live.parameters():
                if parameter.requires_grad:
                    parameter.add_(torch.randn_like(parameter), alpha=0.02)
            scores: Tensor = live(**ids).logits
        live.save_pretrained(adapter, save_embedding_layers=save)
    return scores


def asked(folder: Path, *experts: str) -> tuple[Recipe, Checkpoints]:
    (folder / "text.txt").write_text("a\nb\n")
    tasks = {name: {"expert": f"./{name}", "calibration": "text.txt"} for name in experts}
    settings = {"base_model": "./base", "merge_method": "linear", "tasks": tasks}
    (folder / "recipe.yaml").write_text(yaml.safe_dump(settings))
    recipe = load_recipe(folder / "recipe.yaml")
    return recipe, open_checkpoints(recipe, GgufBase, naming)


def merged(folder: Path, *experts: str) -> Path:
    made = merge(*asked(folder, *experts))
    write_merged(folder / "merged", made.source, made.directory, "", config=made.config)
    return folder / "merged"


@pytest.mark.parametrize("save", [False, "auto"])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("model", TIED)
def test_a_merge_of_one_adapter_is_what_was_trained(
    model: str, kind: str, save: object, tmp_path: Path
) -> None:
    base = decoder.write(tmp_path / "base", model)
    settings, parted = KINDS[kind]
    expected = trained(
        tmp_path / "one", AutoModelForCausalLM.from_pretrained(base), {"input_ids": IDS}, save, **settings
    )
    written = AutoModelForCausalLM.from_pretrained(merged(tmp_path, "one"))
    with torch.no_grad():
        torch.testing.assert_close(written(IDS).logits, expected, rtol=1e-4, atol=1e-4)
    assert written.config.tie_word_embeddings != parted
    recipe, checkpoints = asked(tmp_path, "one")
    if parted:
        with pytest.raises(InputError, match=r"one: found a head that is not its embeddings, .*`merge`"):
            open_models(recipe, checkpoints, open_family)
    else:
        open_models(recipe, checkpoints, open_family)


def test_one_head_of_its_own_gives_all_models_one(tmp_path: Path) -> None:
    base = decoder.write(tmp_path / "base", "qwen3")
    settings, _ = KINDS["head"]
    trained(
        tmp_path / "one", AutoModelForCausalLM.from_pretrained(base), {"input_ids": IDS}, False, **settings
    )
    decoder.write_expert(tmp_path / "two", base, "qwen3", 1)
    found = load_file(merged(tmp_path, "one", "two") / "model.safetensors")
    factors = load_file(tmp_path / "one" / "adapter_model.safetensors")
    name = "base_model.model.lm_head.lora_{}.weight"
    change = 2 * factors[name.format("B")] @ factors[name.format("A")]
    table = found["model.embed_tokens.weight"]
    torch.testing.assert_close(found["lm_head.weight"], table + change / 2, rtol=1e-5, atol=1e-6)


def test_the_bases_own_embeddings_beside_an_adapter_part_nothing(tmp_path: Path) -> None:
    """Read an adapter beside which the trainer has saved the base's own embeddings."""
    base = decoder.write(tmp_path / "base", "qwen3")
    trained(
        tmp_path / "one",
        AutoModelForCausalLM.from_pretrained(base),
        {"input_ids": IDS},
        True,
        target_modules=["q_proj"],
    )
    assert any("embed_tokens" in key for key in load_file(tmp_path / "one" / "adapter_model.safetensors"))
    open_models(*asked(tmp_path, "one"), open_family)
    assert "lm_head.weight" not in load_file(merged(tmp_path, "one") / "model.safetensors")


def test_a_whole_expert_with_a_head_of_its_own(tmp_path: Path) -> None:
    base = decoder.write(tmp_path / "base", "qwen3")
    shutil.copytree(base, tmp_path / "one")
    tensors = load_file(base / "model.safetensors")
    tensors["lm_head.weight"] = tensors["model.embed_tokens.weight"] + 1
    save_file(tensors, tmp_path / "one" / "model.safetensors", {"format": "pt"})
    with pytest.raises(InputError, match=r"one: found a head that is not its embeddings"):
        open_models(*asked(tmp_path, "one"), open_family)
    found = load_file(merged(tmp_path, "one") / "model.safetensors")
    assert torch.equal(found["lm_head.weight"], tensors["lm_head.weight"])


@pytest.mark.parametrize(
    "settings",
    [{"target_modules": ["q", "lm_head"]}, {"target_modules": ["q"], "modules_to_save": ["shared"]}],
)
def test_t5_which_cannot_part_them_refuses(settings: dict[str, Any], tmp_path: Path) -> None:
    base = t5.t5(tmp_path / "base")
    ids = {"input_ids": IDS, "decoder_input_ids": IDS}
    trained(tmp_path / "one", AutoModelForSeq2SeqLM.from_pretrained(base), ids, False, **settings)
    with pytest.raises(
        InputError,
        match=r"adapter_model\.safetensors: base_model\.model\.(lm_head|shared).* one tensor for all of",
    ):
        asked(tmp_path, "one")


def test_a_model_of_no_family_here_parts_them_too(tmp_path: Path) -> None:
    """GPT-2, whose config says nothing of its head."""
    torch.manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=24, n_embd=8, n_layer=1, n_head=2))
    model.save_pretrained(tmp_path / "base")
    ids = {"input_ids": IDS}
    expected = trained(tmp_path / "one", model.eval(), ids, False, target_modules=["wte", "c_attn"])
    written = AutoModelForCausalLM.from_pretrained(merged(tmp_path, "one"))
    with torch.no_grad():
        torch.testing.assert_close(written(IDS).logits, expected, rtol=1e-4, atol=1e-4)


def test_a_mask_that_old_versions_of_gpt2_stored(tmp_path: Path) -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=32, n_positions=24, n_embd=8, n_layer=1, n_head=2))
    for name in ("base", "one"):
        model.save_pretrained(tmp_path / name)
    path = tmp_path / "one" / "model.safetensors"
    more = {
        "transformer.h.0.attn.bias": torch.ones(1, 1, 24, 24),
        "transformer.h.0.attn.masked_bias": IDS[0, :1] * -1.0,
    }
    save_file({**load_file(path), **more}, path, {"format": "pt"})
    assert load_file(merged(tmp_path, "one") / "model.safetensors").keys().isdisjoint(more)
