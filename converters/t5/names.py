"""What T5 calls its tensors."""

from collections.abc import Mapping
from typing import Any

from epmq_export.tensors.naming import Naming, Ties

SHARED, HEAD = "shared.weight", "lm_head.weight"


def naming(config: Mapping[str, Any]) -> Naming:
    """Return the names as transformers has them for a model with a head. The embeddings are one tensor under
    each of their names.
    """
    return Naming(_plain, _needed, Ties(HEAD, (SHARED,), is_tied(config), splits=False))


def is_tied(config: Mapping[str, Any]) -> bool:
    """Return whether the head is the embeddings.

    The library ties it whatever a config says, and since version 5 it writes so even for a model with a head
    of its own. Such a model is then known by outputs that are not scaled.
    """
    return config.get("tie_word_embeddings") is not False and config.get("scale_decoder_outputs") is not False


def _plain(name: str) -> str:
    tables = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    return SHARED if name in tables else name


def _needed(name: str) -> bool:
    """Return whether the model has a tensor. The table of relative positions of cross attention, which old
    checkpoints hold, is read by nothing.
    """
    if name.endswith("EncDecAttention.relative_attention_bias.weight"):
        return False
    return name in (SHARED, HEAD) or name.startswith(("encoder.", "decoder."))
