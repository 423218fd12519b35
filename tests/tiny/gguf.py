"""A directory of a decoder as a GGUF file, written by gguf-py alone: what is read back owes nothing to this
project's own writer.
"""

import json
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from gguf import GGMLQuantizationType, TokenType
from numpy.typing import NDArray
from safetensors.torch import load_file
from torch import Tensor

_NUMBERS = {name: number for number, name in gguf.MODEL_ARCH_NAMES.items()}


def write(
    path: Path,
    source: Path,
    architecture: str,
    *,
    grid: GGMLQuantizationType = GGMLQuantizationType.F32,
    pre: str = "gpt-2",
    keys: Mapping[str, Any] | None = None,
    drop: Callable[[str], bool] = lambda name: False,
    more: Mapping[str, NDArray[np.float32]] | None = None,
    split: int = 0,
) -> Path:
    """Write the file. `grid` is for matrices; `keys` stand in place of those that are written, None for none.
    With `split`, it is the first of files of so many tensors.
    """
    config: dict[str, Any] = json.loads((source / "config.json").read_text())
    writer = gguf.GGUFWriter(path, architecture, split_max_tensors=split)
    heads, shared = config["num_attention_heads"], config["num_key_value_heads"]
    head = config.get("head_dim") or config["hidden_size"] // heads
    rope = config["rope_parameters"]
    written: dict[str, Any] = {
        f"{architecture}.block_count": config["num_hidden_layers"],
        f"{architecture}.context_length": config["max_position_embeddings"],
        f"{architecture}.embedding_length": config["hidden_size"],
        f"{architecture}.feed_forward_length": config["intermediate_size"],
        f"{architecture}.attention.head_count": heads,
        f"{architecture}.attention.head_count_kv": shared,
        f"{architecture}.attention.key_length": head,
        f"{architecture}.attention.value_length": head,
        f"{architecture}.attention.layer_norm_rms_epsilon": float(config["rms_norm_eps"]),
        f"{architecture}.rope.freq_base": float(rope.get("full_attention", rope)["rope_theta"]),
    }
    if rope.get("rope_type") == "linear":
        written |= {
            f"{architecture}.rope.scaling.type": "linear",
            f"{architecture}.rope.scaling.factor": float(rope["factor"]),
        }
    if architecture == "granite":
        written |= {
            f"{architecture}.attention.scale": config["attention_multiplier"],
            f"{architecture}.embedding_scale": config["embedding_multiplier"],
            f"{architecture}.logit_scale": config["logits_scaling"],
            f"{architecture}.residual_scale": config["residual_multiplier"],
        }
    if rope.get("rope_type") == "longrope":
        written |= {
            f"{architecture}.rope.dimension_count": int(head * rope["partial_rotary_factor"]),
            f"{architecture}.rope.scaling.original_context_length": rope["original_max_position_embeddings"],
            f"{architecture}.rope.scaling.attn_factor": attention_factor(config),
        }
    if architecture == "gemma2":
        caps = ("attn_logit_softcapping", "final_logit_softcapping")
        written |= {f"{architecture}.{key}": config[key] for key in caps}
    experts = config.get("num_local_experts") or config.get("num_experts")
    if experts:
        written |= {
            f"{architecture}.expert_count": experts,
            f"{architecture}.expert_used_count": config["num_experts_per_tok"],
        }
    if architecture == "qwen3moe":
        written[f"{architecture}.expert_feed_forward_length"] = config["moe_intermediate_size"]
    if architecture in ("gemma2", "gemma3"):
        written[f"{architecture}.attention.sliding_window"] = config["sliding_window"]
    for key, value in {**written, **_tokenizer(source, pre), **(keys or {})}.items():
        _add(writer, key, value)
    known = gguf.get_tensor_name_map(_NUMBERS[architecture], config["num_hidden_layers"])
    tensors: dict[str, NDArray[np.float32]] = {}
    stored = load_file(source / "model.safetensors")
    for first in [name for name in stored if ".experts.0." in name]:
        # An expert behind the other.
        names = [first.replace("experts.0", f"experts.{i}") for i in range(experts)]
        stored[first.replace("experts.0", "experts")] = torch.stack([stored.pop(name) for name in names])
    for name, value in stored.items():
        there = known.get_name(name, try_suffixes=(".weight", ".bias"))
        assert there is not None
        tensors[there] = _as_written(name, value.float(), architecture, heads, shared).numpy()
    for name, data in {**tensors, **(more or {})}.items():
        if drop(name):
            continue
        kind = grid if data.ndim > 1 else GGMLQuantizationType.F32
        writer.add_tensor(name, gguf.quants.quantize(data, kind), raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path.with_name(f"{path.stem}-00001-of-{-(-len(tensors) // split):05d}.gguf") if split else path


def _as_written(name: str, value: Tensor, architecture: str, heads: int, shared: int) -> Tensor:
    if architecture in ("gemma2", "gemma3") and name.endswith("norm.weight"):
        return value + 1
    count = (
        {"q_proj": heads, "k_proj": shared}.get(name.split(".")[-2])
        if architecture in ("llama", "smollm3", "granite")
        else None
    )
    if count is None:
        return value
    return (
        value.reshape(count, 2, len(value) // count // 2, *value.shape[1:])
        .swapaxes(1, 2)
        .reshape(value.shape)
    )


def _tokenizer(source: Path, pre: str) -> dict[str, Any]:
    """Return the keys of tests/tiny/decoder.py's byte-level tokenizer."""
    rules = json.loads((source / "tokenizer.json").read_text())
    settings = json.loads((source / "tokenizer_config.json").read_text())
    tokens = sorted(rules["model"]["vocab"], key=rules["model"]["vocab"].get)
    control = {entry["content"] for entry in rules["added_tokens"]}
    merges = [merge if isinstance(merge, str) else " ".join(merge) for merge in rules["model"]["merges"]]
    found = {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": [*tokens, "[PAD1]", "[PAD2]"],
        "tokenizer.ggml.token_type": [
            *(int(TokenType.CONTROL if token in control else TokenType.NORMAL) for token in tokens),
            *[int(TokenType.UNUSED)] * 2,
        ],
        "tokenizer.ggml.merges": merges,
        "tokenizer.ggml.add_bos_token": "<s>" in json.dumps(rules.get("post_processor")),
        "tokenizer.chat_template": "{{ messages }}",
    }
    ids = {"bos": "bos_token", "eos": "eos_token", "padding": "pad_token"}
    return found | {
        f"tokenizer.ggml.{name}_token_id": rules["model"]["vocab"][settings[key]] for name, key in ids.items()
    }


def _add(writer: gguf.GGUFWriter, key: str, value: Any) -> None:
    match value:
        case None:
            return
        case bool():
            writer.add_bool(key, value)
        case int():
            writer.add_uint32(key, value)
        case float():
            writer.add_float32(key, value)
        case str():
            writer.add_string(key, value)
        case _:
            writer.add_array(key, value)


def attention_factor(config: dict[str, Any]) -> float:
    """Return what Phi-3's cosines and sines are multiplied by."""
    original = config["rope_parameters"]["original_max_position_embeddings"]
    return math.sqrt(1 + math.log(config["max_position_embeddings"] / original) / math.log(original))


def long_factors(source: Path) -> dict[str, NDArray[np.float32]]:
    """Return both sets of Phi-3's factors as the file has them."""
    rope = json.loads((source / "config.json").read_text())["rope_parameters"]
    return {
        f"rope_factors_{which}.weight": np.array(rope[f"{which}_factor"], np.float32)
        for which in ("long", "short")
    }


def rope_factors(source: Path) -> NDArray[np.float32]:
    """Return the factors as the file has them for Llama 3's scaling."""
    from transformers import LlamaConfig
    from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

    config = LlamaConfig.from_pretrained(source)
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))
    plain = config.rope_parameters["rope_theta"] ** -(torch.arange(len(scaled)) / len(scaled))
    return (plain / scaled).float().numpy()
