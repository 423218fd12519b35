"""The config.json of a GGUF file. A key that says what its architecture here is not known to do is refused, not left out."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from gguf import GGUFValueType
from torch import Tensor
from transformers import Gemma3TextConfig, LlamaConfig, PreTrainedConfig, Qwen2Config, Qwen3Config
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from epmq_export.errors import InputError
from epmq_export.gguf_file import Value, shown

_CLASSES: Mapping[str, tuple[type[PreTrainedConfig], str]] = {
    "llama": (LlamaConfig, "LlamaForCausalLM"),
    "qwen2": (Qwen2Config, "Qwen2ForCausalLM"),
    "qwen3": (Qwen3Config, "Qwen3ForCausalLM"),
    "gemma3": (Gemma3TextConfig, "Gemma3ForCausalLM"),
}
# Keys that change nothing where they have these values.
_IDLE: Mapping[str, object] = {
    "attention.causal": True,
    "attention.sliding_window_pattern": 6,
    "expert_count": 0,
    "expert_used_count": 0,
    "rope.freq_base_swa": 10000.0,
    "rope.scaling.finetuned": False,
    "rope.scaling.original_context_length": None,
    "tensor_data_layout": None,
    "vocab_size": None,
}
# What all of Llama 3 has of its scaling, but for the factor.
_LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
_LOCAL_BASE = 10000.0


def write_config(directory: Path, path: Path, metadata: Mapping[str, Value], rows: int, *, tied: bool, biased: bool, frequencies: Tensor | None) -> None:
    """Of the file at `path`, whose embeddings have `rows`; `frequencies` are its rope_freqs, if it has any. InputError where it cannot be said."""
    architecture = str(metadata["general.architecture"].value)
    kind, name = _CLASSES[architecture]
    config = kind(**_values(_Keys(path, architecture, metadata), rows, tied, biased, frequencies))
    config.architectures = [name]
    config.dtype = torch.float32
    config.save_pretrained(directory)


class _Keys:
    """The keys of one architecture, and which of them were asked for."""

    def __init__(self, path: Path, architecture: str, metadata: Mapping[str, Value]) -> None:
        self.path, self.architecture, self.metadata = path, architecture, metadata
        self.left = {key for key in metadata if key.startswith(f"{architecture}.")}

    def fail(self, key: str, expected: str) -> NoReturn:
        found = self.metadata.get(f"{self.architecture}.{key}")
        raise InputError(f"{self.path}: key {self.architecture}.{key} is {'missing' if found is None else shown(repr(found.value))}, expected {expected}")

    def number(self, key: str, default: float | None = None) -> Any:  # noqa: ANN401 - int or float, as the file has it
        value = self.metadata.get(f"{self.architecture}.{key}")
        self.left.discard(f"{self.architecture}.{key}")
        if value is None and default is not None:
            return default
        if value is None or isinstance(value.value, bool) or not isinstance(value.value, int | float) or not 0 < value.value < 2**31:
            self.fail(key, "a number above 0")
        # 1e-6 comes back as float32 has it; what was meant is the shortest number that does.
        return float(str(np.float32(value.value))) if value.type == GGUFValueType.FLOAT32 else value.value

    def text(self, key: str, default: str) -> str:
        value = self.metadata.get(f"{self.architecture}.{key}")
        self.left.discard(f"{self.architecture}.{key}")
        return default if value is None else str(value.value)

    def token(self, which: str) -> int | None:
        value = self.metadata.get(f"tokenizer.ggml.{which}_token_id")
        return int(value.value) if value is not None and value.type != GGUFValueType.ARRAY else None

    def finish(self) -> None:
        for key in sorted(self.left):
            own = key.removeprefix(f"{self.architecture}.")
            if own not in _IDLE or _IDLE[own] not in (None, self.metadata[key].value):
                self.fail(own, "none" if own not in _IDLE else repr(_IDLE[own]))


def _values(keys: _Keys, rows: int, tied: bool, biased: bool, frequencies: Tensor | None) -> dict[str, Any]:
    gemma = keys.architecture == "gemma3"
    width, heads = keys.number("embedding_length"), keys.number("attention.head_count")
    head = keys.number("attention.key_length", width // heads)
    for key in ("attention.value_length", "rope.dimension_count"):
        if keys.number(key, head) != head:
            keys.fail(key, f"{head}, the width of a head")
    values = {
        "vocab_size": rows,
        "hidden_size": width,
        "intermediate_size": keys.number("feed_forward_length"),
        "num_hidden_layers": keys.number("block_count"),
        "num_attention_heads": heads,
        "num_key_value_heads": keys.number("attention.head_count_kv", heads),
        "head_dim": head,
        "max_position_embeddings": keys.number("context_length"),
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": tied,
        **{f"{which}_token_id": keys.token(their) for which, their in (("bos", "bos"), ("eos", "eos"), ("pad", "padding"))},
    }
    rope = _rope(keys, 1e6 if gemma else 10000.0)
    if frequencies is not None:
        rope = _llama3(keys, rope, values, frequencies)
    if gemma:
        # llama.cpp has the scale of the attention in its code; the 27 B model, told by its layers, has the mean width of a head.
        scalar = width // heads if values["num_hidden_layers"] == 62 else head
        local = {"rope_type": "default", "rope_theta": _LOCAL_BASE}
        values |= {"query_pre_attn_scalar": scalar, "sliding_window": keys.number("attention.sliding_window")}
        values["rope_parameters"] = {"full_attention": rope, "sliding_attention": local}
    else:
        values["rope_parameters"] = rope
        values |= {} if keys.architecture == "qwen2" else {"attention_bias": biased}
    if keys.architecture == "qwen2":
        del values["head_dim"]
        if head * heads != width:
            keys.fail("attention.key_length", str(width // heads))
    keys.finish()
    return values


def _rope(keys: _Keys, base: float) -> dict[str, Any]:
    found = {"rope_type": "default", "rope_theta": float(keys.number("rope.freq_base", base))}
    kind = keys.text("rope.scaling.type", "none")
    factor = float(keys.number("rope.scaling.factor", 1.0))
    factor *= float(keys.number("rope.scale_linear", 1.0))
    if kind not in ("none", "linear"):
        keys.fail("rope.scaling.type", "none or linear")
    return found if factor == 1 or kind == "none" else {**found, "rope_type": "linear", "factor": factor}


def _llama3(keys: _Keys, rope: dict[str, Any], values: dict[str, Any], frequencies: Tensor) -> dict[str, Any]:
    """The file has no key for Llama 3's scaling, but divisors of its frequencies, of which the largest is the factor: right if they are all met."""
    found = {**rope, **_LLAMA3, "factor": round(float(frequencies.max()), 4)}
    scaled, _ = ROPE_INIT_FUNCTIONS["llama3"](LlamaConfig(**{**values, "rope_parameters": found}), torch.device("cpu"))
    plain = rope["rope_theta"] ** -(torch.arange(len(scaled), dtype=torch.float64) / len(scaled))
    if rope["rope_type"] != "default" or frequencies.shape != scaled.shape or not torch.allclose(plain / scaled.double(), frequencies.double(), rtol=1e-4):
        raise InputError(f"{keys.path}: tensor rope_freqs.weight scales rotations otherwise than Llama 3 does, which is all that config.json can say here")
    return found
