"""What decoder language models call their tensors."""

from collections.abc import Mapping
from typing import Any

from epmq_export.tensors.naming import Naming, Ties

EMBEDDINGS, HEAD = "model.embed_tokens.weight", "lm_head.weight"
# The kinds whose configs leave out that their heads are tied.
_TIED = ("gemma2", "gemma3_text", "smollm3")


def naming(config: Mapping[str, Any]) -> Naming:
    """Return the names as transformers has them for a model with a head."""
    tied = config.get("tie_word_embeddings", config["model_type"] in _TIED)
    return Naming(_plain, _needed, Ties(HEAD, (EMBEDDINGS,), bool(tied), splits=True))


def _plain(name: str) -> str:
    """Return the name with the `model.` that a model saved without its head has not."""
    return f"model.{name}" if name.startswith(("layers.", "embed_tokens.", "norm.")) else name


def _needed(name: str) -> bool:
    return name == HEAD or name.startswith(("model.layers.", "model.embed_tokens.", "model.norm."))
