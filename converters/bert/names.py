"""What BERT and its like call their tensors."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from epmq_export.tensors.modules import is_dense
from epmq_export.tensors.naming import Naming

STACKS = {
    "bert": "encoder.layer",
    "roberta": "encoder.layer",
    "xlm-roberta": "encoder.layer",
    "camembert": "encoder.layer",
    "distilbert": "transformer.layer",
    "mpnet": "encoder.layer",
}
"""The beginning of the names of the layers, by `model_type`."""

COUNTED = frozenset({"roberta", "xlm-roberta", "camembert", "mpnet"})
"""Each `model_type` whose positions begin behind the row of the padding token."""

TABLE = "encoder.relative_attention_bias"
"""The table of relative positions, which MPNet has."""

HEADS = {
    "bert": ("pooler.dense", "classifier"),
    "roberta": ("classifier.dense", "classifier.out_proj"),
    "xlm-roberta": ("classifier.dense", "classifier.out_proj"),
    "camembert": ("classifier.dense", "classifier.out_proj"),
    "distilbert": ("pre_classifier", "classifier"),
    "mpnet": ("classifier.dense", "classifier.out_proj"),
}
"""What a classifier calls the two linears of its head, by `model_type`."""

# What stands before all names in a model with a head.
_BEFORE = {"xlm-roberta": "roberta.", "camembert": "roberta."}


def naming(config: Mapping[str, Any]) -> Naming:
    """Return the names: without what stands before them in models with a head, such as `bert.`. The pooler,
    the heads and position indices are not part of an encoder; sentence-transformers' Dense modules behind it
    are.
    """
    kind = config["model_type"]
    before = _BEFORE.get(kind, f"{kind}.")
    return Naming(
        lambda name: name.removeprefix(before),
        partial(_needed, f"{STACKS[kind]}."),
        classifier=classifier_parts(kind),
    )


def classifier_parts(kind: str) -> dict[str, str]:
    """Return the plain names of the tensors of a classifier's head by their canonical names within it."""
    return {
        f"{here}.{part}": f"{there}.{part}"
        for here, there in zip(("dense", "out"), HEADS[kind], strict=True)
        for part in ("weight", "bias")
    }


def _needed(stack: str, name: str) -> bool:
    return name.startswith(("embeddings.", stack, f"{TABLE}.")) or is_dense(name)
