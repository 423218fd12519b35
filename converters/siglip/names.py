"""What SigLIP calls its tensors."""

from collections.abc import Mapping
from typing import Any

from epmq_export.tensors.naming import Naming

TEXT, VISION = "text_model", "vision_model"
SCALE, BIAS = "logit_scale", "logit_bias"


def naming(config: Mapping[str, Any]) -> Naming:
    """Return the names of a model with both towers. The image tower that was saved alone may have none before
    its own; classifiers are no part of the model.
    """
    return Naming(_plain, _needed)


def _plain(name: str) -> str:
    alone = ("embeddings.", "encoder.", "post_layernorm.", "head.")
    return f"{VISION}.{name}" if name.startswith(alone) else name


def _needed(name: str) -> bool:
    return name.startswith((f"{TEXT}.", f"{VISION}.")) or name in (SCALE, BIAS)
