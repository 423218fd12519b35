"""Hugging Face's names of the tensors in a GGUF file: gguf's own map, backwards."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass

from gguf import MODEL_ARCH_NAMES, get_tensor_name_map

_ARCHITECTURES = {name: number for number, name in MODEL_ARCH_NAMES.items()}
EMBEDDINGS, HEAD = "model.embed_tokens", "lm_head"
_ATTENTION = tuple(f"self_attn.{which}_proj" for which in "qkvo")
_LINEARS = (*_ATTENTION, "mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
_NORMS, _INNER = ("input_layernorm", "post_attention_layernorm"), ("self_attn.q_norm", "self_attn.k_norm")
_AROUND = ("pre_feedforward_layernorm", "post_feedforward_layernorm")


@dataclass(frozen=True)
class Architecture:
    norms: tuple[str, ...]
    """Of a layer."""

    offset: float = 0.0
    """What the file adds to the weights of norms."""

    interleaved: bool = False
    """Whether the rows of q and k stand as llama.cpp rotates them, in pairs of neighbours."""


ARCHITECTURES: Mapping[str, Architecture] = {
    "llama": Architecture(_NORMS, interleaved=True),
    "qwen2": Architecture(_NORMS),
    "qwen3": Architecture((*_NORMS, *_INNER)),
    "gemma3": Architecture((*_NORMS, *_AROUND, *_INNER), offset=1.0),
}


def names(architecture: str, layers: int, held: Collection[str]) -> tuple[dict[str, str], list[str]]:
    """The file's name of each tensor by its canonical one, of those that are held; and canonical names of weights that are missed.

    A layer's attention has biases whole or not at all; of qwen2 they are those of q, k and v.
    """
    known = get_tensor_name_map(_ARCHITECTURES[architecture], layers)
    parts = [f"model.layers.{layer}.{part}" for layer in range(layers) for part in (*ARCHITECTURES[architecture].norms, *_LINEARS)]
    weights = [f"{path}.weight" for path in (EMBEDDINGS, "model.norm", HEAD, *parts)]
    attention = _ATTENTION[:3] if architecture == "qwen2" else _ATTENTION
    biases = [f"model.layers.{layer}.{part}.bias" for layer in range(layers) for part in attention]
    there = {name: known.get_name(name, try_suffixes=(".weight", ".bias")) for name in (*weights, *biases)}
    found = {name: place for name, place in there.items() if place is not None and place in held}
    biased = architecture == "qwen2" or any(name in found for name in biases)
    wanted = [*(name for name in weights if name != f"{HEAD}.weight"), *(biases if biased else [])]
    return found, [name for name in wanted if name not in found]
