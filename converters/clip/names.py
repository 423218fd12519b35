"""What CLIP calls its tensors."""

from collections.abc import Mapping
from typing import Any

from epmq_export.tensors.naming import Naming

TEXT, VISION = "text_model", "vision_model"


def naming(config: Mapping[str, Any]) -> Naming:
    """Return the names of a model with both towers. A tower that was saved alone has none before its own."""
    return Naming(needed=_needed)


def _needed(name: str) -> bool:
    towers = tuple(f"{tower}." for tower in (TEXT, VISION))
    return name.startswith((*towers, "text_projection.", "visual_projection.")) or name == "logit_scale"
