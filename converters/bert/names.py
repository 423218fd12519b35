"""What BERT encoders call their tensors."""

from collections.abc import Mapping
from typing import Any

from epmq_export.tensors.modules import is_dense
from epmq_export.tensors.naming import Naming


def naming(config: Mapping[str, Any]) -> Naming:
    """Return the names: without the `bert.` of models with a head. The pooler, the heads and position
    indices are not part of an encoder; sentence-transformers' Dense modules behind it are.
    """
    return Naming(lambda name: name.removeprefix("bert."), _needed)


def _needed(name: str) -> bool:
    return name.startswith(("embeddings.", "encoder.")) or is_dense(name)
