"""What decoder language models call their tensors."""

from collections.abc import Mapping
from typing import Any

from epmq_export.tensors.naming import Naming, Ties

EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
FEED_FORWARD, SPARSE = "mlp", "block_sparse_moe"
"""The feed-forward part of a layer, and Mixtral's."""

GATED = ("gate_proj", "up_proj", "down_proj")
"""The linears of a feed-forward part: gate, up and down."""

OF_EXPERTS = {"mixtral": ("w1", "w3", "w2"), "olmoe": GATED, "qwen3_moe": GATED}
"""The linears of an expert, by the `model_type` of mixtures."""

# The kinds whose configs leave out that their heads are tied.
_TIED = ("gemma2", "gemma3_text", "smollm3")


def naming(config: Mapping[str, Any]) -> Naming:
    """Return the names as transformers has them for a model with a head."""
    kind = config["model_type"]
    tied = config.get("tie_word_embeddings", kind in _TIED)
    return Naming(
        _sparse if kind == "mixtral" else _plain,
        _needed,
        Ties(HEAD, (EMBEDDINGS,), bool(tied), splits=True),
        stacks=_stacks(*OF_EXPERTS[kind]) if kind in OF_EXPERTS else {},
    )


def _plain(name: str) -> str:
    """Return the name with the `model.` that a model saved without its head has not."""
    return f"model.{name}" if name.startswith(("layers.", "embed_tokens.", "norm.")) else name


def _sparse(name: str) -> str:
    """Return the name as Mixtral's checkpoints have it, and not as the library calls the part in memory."""
    return _plain(name).replace(f".{FEED_FORWARD}.", f".{SPARSE}.")


def _needed(name: str) -> bool:
    return name == HEAD or name.startswith(("model.layers.", "model.embed_tokens.", "model.norm."))


def _stacks(gate: str, up: str, down: str) -> dict[str, tuple[str, ...]]:
    """Return the tensors of all experts together, as the library has them in memory."""
    return {".experts.gate_up_proj": (gate, up), ".experts.down_proj": (down,)}
