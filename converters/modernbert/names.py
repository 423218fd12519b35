"""What ModernBERT calls its tensors."""

from collections.abc import Mapping
from typing import Any

from epmq_export.tensors.modules import is_dense
from epmq_export.tensors.naming import Naming

_BEFORE = "model."


def naming(config: Mapping[str, Any]) -> Naming:
    """Return the names: without `model.`, which stands before them in models with a head. Heads are no part
    of an encoder; sentence-transformers' Dense modules behind it are.
    """
    return Naming(lambda name: name.removeprefix(_BEFORE), _needed)


def _needed(name: str) -> bool:
    return name.startswith(("embeddings.", "layers.", "final_norm.")) or is_dense(name)
