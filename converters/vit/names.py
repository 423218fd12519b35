"""What ViT, DeiT, DINOv2 and DINOv3 call their tensors: as in transformers 5; version 4 had other names."""

import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from epmq_export.tensors.naming import Naming

STACKS = {
    "vit": "layers",
    "deit": "layers",
    "dinov2": "encoder.layer",
    "dinov2_with_registers": "encoder.layer",
    "dinov3_vit": "layer",
}
"""The beginning of the names of the layers, by `model_type`, which may itself stand before all names."""

CLASSIFIER = {f"out.{part}": f"classifier.{part}" for part in ("weight", "bias")}
"""What a classifier calls the tensors of its head, by their canonical names within it."""

HEADLESS = frozenset({"dinov3_vit"})
"""Each `model_type` that the library has no classifier of."""

# Of transformers 4, in an order: `output.dense` is also the end of a longer name.
_OLD = (
    ("attention.attention.query.", "attention.q_proj."),
    ("attention.attention.key.", "attention.k_proj."),
    ("attention.attention.value.", "attention.v_proj."),
    ("attention.output.dense.", "attention.o_proj."),
    ("intermediate.dense.", "mlp.fc1."),
    ("output.dense.", "mlp.fc2."),
)


def naming(config: Mapping[str, Any]) -> Naming:
    """Return the names; poolers, mask tokens and classifiers are not part of the encoder."""
    kind = config["model_type"]
    head = None if kind in HEADLESS else CLASSIFIER
    return Naming(partial(_plain, kind), partial(_needed, kind), classifier=head)


def _plain(model_type: str, name: str) -> str:
    name, stack = name.removeprefix(f"{model_type}."), STACKS[model_type]
    if stack == "layer":  # The library's code calls the layers otherwise than the files that it writes.
        name = name.removeprefix("model.")
    if stack == "layers":
        name = re.sub(r"^encoder\.layer\.", "layers.", name)
    if name.startswith(f"{stack}."):
        for old, new in _OLD:
            name = name.replace(f".{old}", f".{new}")
    return name


def _needed(model_type: str, name: str) -> bool:
    known = name.startswith(("embeddings.", f"{STACKS[model_type]}.", "layernorm.", "norm."))
    return known and name != "embeddings.mask_token"
