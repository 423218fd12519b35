"""What the writer of a decoder's GGUF file (gguf.py) and the reader (from_gguf) both go by: keys, names,
rows, norms and rotations.
"""

import re
from collections.abc import Iterable, Mapping

import torch
from gguf import MODEL_ARCH_NAMES, get_tensor_name_map
from torch import Tensor

from converters.decoder.kinds import Kind
from converters.decoder.names import EMBEDDINGS, HEAD

HEADS, SHARED_HEADS = "attention.head_count", "attention.head_count_kv"
# The keys of config.json by those of the file, without the architecture.
KEYS: Mapping[str, str] = {
    "block_count": "num_hidden_layers",
    "context_length": "max_position_embeddings",
    "embedding_length": "hidden_size",
    "feed_forward_length": "intermediate_size",
    HEADS: "num_attention_heads",
    SHARED_HEADS: "num_key_value_heads",
}
# The same of mixtures.
EXPERTS = "expert_count"
MIXTURE: Mapping[str, str] = {
    EXPERTS: "num_experts",
    "expert_used_count": "num_experts_per_tok",
    "expert_feed_forward_length": "moe_intermediate_size",
}
# The same of the kinds that have multipliers.
MULTIPLIERS: Mapping[str, str] = {
    "attention.scale": "attention_multiplier",
    "embedding_scale": "embedding_multiplier",
    "logit_scale": "logits_scaling",
    "residual_scale": "residual_multiplier",
}
# The bounds of scores by their keys, which the file has in the same words, and what llama.cpp takes them for
# where a file has none.
CAPS: Mapping[str, float] = {"attn_logit_softcapping": 50.0, "final_logit_softcapping": 30.0}
# The divisors of the rotations' frequencies. A file says nothing else about Llama 3's scaling.
DIVISORS = "rope_freqs.weight"
# The same of Phi-3's texts that are no longer than those of its first training, and of longer ones, with the
# keys of config.json.
SHORT_LONG: Mapping[str, str] = {
    "rope_factors_short.weight": "short_factor",
    "rope_factors_long.weight": "long_factor",
}
# The base of the rotations of those layers of llama.cpp's gemma3 that see a window.
LOCAL_BASE = 10000.0
_EXPERT = re.compile(r"(\.experts)\.\d+\.")
_NUMBERS = {name: number for number, name in MODEL_ARCH_NAMES.items()}
_ATTENTION = tuple(f"self_attn.{which}_proj" for which in "qkvo")


def tensor_names(kind: Kind, layers: int, *, tied: bool, biased: bool, experts: int) -> dict[str, str]:
    """Return canonical names to the file's, by gguf's own map, in the order of the file. `biased`: whether
    the config gives the attention biases. A linear has one name in all experts of a layer.
    """
    known = get_tensor_name_map(_NUMBERS[kind.architecture], layers)
    linears = [path for step in kind.steps(experts) for path in step if path not in kind.norms]
    routers = [f"{kind.feed_forward}.gate"] if kind.mixed else []
    parts = [
        f"model.layers.{layer}.{part}"
        for layer in range(layers)
        for part in (*kind.norms, *kind.head_norms, *routers, *linears)
    ]
    biases = kind.biased or (_ATTENTION if biased else ())
    names = [EMBEDDINGS, "model.norm.weight", *([] if tied or False not in kind.tied else [HEAD])]
    for part in parts:
        names += [f"{part}.weight", *([f"{part}.bias"] if part.endswith(biases) else [])]
    # gguf knows every tensor of its own architectures.
    return {
        name: str(known.get_name(_EXPERT.sub(r"\1.", name), try_suffixes=(".weight", ".bias")))
        for name in names
    }


def is_of_expert(name: str) -> bool:
    """Return whether a tensor is one expert's of a mixture."""
    return _EXPERT.search(name) is not None


def rotated(kind: Kind, names: Iterable[str]) -> dict[str, str]:
    """Return the tensors whose rows stand in another order in the file, each with the key of its number of
    heads.
    """
    keys = {"q_proj": HEADS, "k_proj": SHARED_HEADS} if kind.interleaved else {}
    return {name: keys[part] for name in names if (part := name.split(".")[-2]) in keys}


def interleaved(heads: int, width: int) -> Tensor:
    """Return the order of q's and k's rows, int64 [heads * width]: llama.cpp rotates pairs of neighbours,
    transformers a head's first half with its second.
    """
    return torch.arange(heads * width).reshape(heads, 2, width // 2).transpose(1, 2).reshape(-1)


def offsets(kind: Kind, names: Iterable[str]) -> dict[str, float]:
    """Return what the file has added to weights of norms."""
    return {name: kind.offset for name in names if name.endswith("norm.weight")} if kind.offset else {}


def divisors(base: float, frequencies: Tensor) -> Tensor:
    """Return what the plain frequencies of `base` are divided by to be these, float32 [width / 2]."""
    plain = base ** -(torch.arange(len(frequencies), dtype=torch.float64) / len(frequencies))
    return (plain / frequencies.double()).float()


def gemma_scalar(kind: Kind, layers: int, width: int, heads: int, head: int) -> int:
    """Return the scale of Gemma's attention that llama.cpp has in its code: the 27 B model, told by how many
    layers it has, takes the mean width of a head.
    """
    return width // heads if layers == kind.mean_width else head
