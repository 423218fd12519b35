"""How decoder language models are laid out in GGUF, as llama.cpp reads the architectures llama, qwen2, qwen3 and gemma3."""

from pathlib import Path
from typing import Any

import torch
from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from converters.gguf_tokenizer import gguf_tokenizer
from epmq_export.errors import InputError
from epmq_export.family import GgufSpec, Metadata

# llama.cpp's gemma3: every sixth layer sees everything, the others' rotations have this base.
PERIOD, LOCAL_BASE = 6, 10000.0
_ARCHITECTURES = {name: architecture for architecture, name in MODEL_ARCH_NAMES.items()}
_SUFFIXES = (".weight", ".bias")


def gguf_spec(
    architecture: str,
    family: str,
    config: Any,  # noqa: ANN401 - one of several classes of the library
    tokenizer: PreTrainedTokenizerFast,
    directory: Path,
    rotary: nn.Module,
    offset: float,
) -> GgufSpec:
    """InputError for a config that llama.cpp would compute otherwise."""
    path = directory / "config.json"
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    metadata: Metadata = {
        f"{architecture}.block_count": config.num_hidden_layers,
        f"{architecture}.context_length": config.max_position_embeddings,
        f"{architecture}.embedding_length": config.hidden_size,
        f"{architecture}.feed_forward_length": config.intermediate_size,
        f"{architecture}.attention.head_count": config.num_attention_heads,
        f"{architecture}.attention.head_count_kv": config.num_key_value_heads,
        f"{architecture}.attention.key_length": head,
        f"{architecture}.attention.value_length": head,
        f"{architecture}.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        f"{architecture}.rope.dimension_count": head,
        f"{architecture}.vocab_size": config.vocab_size,
    }
    rope, constants = (_gemma_rope(path, config), {}) if architecture == "gemma3" else _rope(path, config.rope_parameters, rotary)
    metadata = {**metadata, **{f"{architecture}.{key}": value for key, value in rope.items()}, **gguf_tokenizer(tokenizer, directory, config.vocab_size)}
    names = _names(architecture, config)
    orders: dict[str, Tensor] = {}
    if architecture == "llama":
        for layer in range(config.num_hidden_layers):
            for which, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
                order = interleaved(heads, head)
                orders |= {name: order for suffix in _SUFFIXES if (name := f"model.layers.{layer}.self_attn.{which}{suffix}") in names}
    offsets = {name: offset for name in names if name.endswith("norm.weight")} if offset else {}
    return GgufSpec(architecture, metadata, names, orders=orders, offsets=offsets, constants=constants)


def interleaved(heads: int, width: int) -> Tensor:
    """The order of q's and k's rows, int64 [heads * width]: llama.cpp rotates pairs of neighbours, transformers a head's first half with its second."""
    return torch.arange(heads * width).reshape(heads, 2, width // 2).transpose(1, 2).reshape(-1)


def _names(architecture: str, config: Any) -> dict[str, str]:  # noqa: ANN401
    """Canonical names to the file's, by gguf's own map."""
    known = get_tensor_name_map(_ARCHITECTURES[architecture], config.num_hidden_layers)
    biased: tuple[str, ...] = {"qwen2": ("q_proj", "k_proj", "v_proj")}.get(architecture, ())
    if getattr(config, "attention_bias", False):
        biased = ("q_proj", "k_proj", "v_proj", "o_proj")
    paths = ["model.embed_tokens", "model.norm", *([] if config.tie_word_embeddings else ["lm_head"])]
    norms = ["input_layernorm", "post_attention_layernorm"]
    norms += ["pre_feedforward_layernorm", "post_feedforward_layernorm"] if architecture == "gemma3" else []
    norms += ["self_attn.q_norm", "self_attn.k_norm"] if architecture in ("qwen3", "gemma3") else []
    linears = [f"self_attn.{which}" for which in ("q_proj", "k_proj", "v_proj", "o_proj")] + [f"mlp.{which}" for which in ("gate_proj", "up_proj", "down_proj")]
    paths += [f"model.layers.{layer}.{part}" for layer in range(config.num_hidden_layers) for part in (*norms, *linears)]
    names = {}
    for path in paths:
        for suffix in (".weight", *([".bias"] if path.rpartition(".")[2] in biased else [])):
            found = known.get_name(f"{path}{suffix}", try_suffixes=_SUFFIXES)
            assert found is not None, path  # gguf knows every tensor of its own architectures
            names[f"{path}{suffix}"] = found
    return names


def _rope(path: Path, parameters: dict[str, Any], rotary: nn.Module) -> tuple[dict[str, str | int | float], dict[str, Tensor]]:
    """Keys without the architecture, and the tensor that Llama 3's scaling takes."""
    found: dict[str, str | int | float] = {"rope.freq_base": float(parameters["rope_theta"])}
    kind = parameters["rope_type"]
    if kind == "linear":
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(parameters["factor"])}
    elif kind == "llama3":
        ours: Tensor = rotary.get_buffer("inv_freq").float()
        plain = parameters["rope_theta"] ** -(torch.arange(len(ours), dtype=torch.float64) / len(ours))
        return found, {"rope_freqs.weight": (plain / ours.double()).float()}
    elif kind != "default":
        raise InputError(f"{path}: found rope_type {kind!r}, expected default, linear or llama3")
    return found, {}


def _gemma_rope(path: Path, config: Any) -> dict[str, str | int | float]:  # noqa: ANN401
    """llama.cpp has the period of the layers, the local rotation and the scale of the attention in its code."""
    expected = ["full_attention" if (layer + 1) % PERIOD == 0 else "sliding_attention" for layer in range(config.num_hidden_layers)]
    if list(config.layer_types) != expected:
        raise InputError(f"{path}: found layer_types that are not five sliding ones and a full one in turn, which is all that llama.cpp has")
    local, whole = config.rope_parameters["sliding_attention"], config.rope_parameters["full_attention"]
    if local["rope_type"] != "default" or local["rope_theta"] != LOCAL_BASE:
        raise InputError(f"{path}: found the rope_parameters {local} of sliding_attention, expected the default ones with rope_theta {LOCAL_BASE:g}")
    # The 27 B model, told by its 62 layers, takes the mean width of a head.
    scalar = config.hidden_size // config.num_attention_heads if config.num_hidden_layers == 62 else config.head_dim
    if config.query_pre_attn_scalar != scalar:
        raise InputError(f"{path}: found query_pre_attn_scalar {config.query_pre_attn_scalar}, expected {scalar}: llama.cpp has no other")
    found, _ = _rope(path, whole, nn.Module())
    return {**found, "attention.sliding_window": config.sliding_window}
