"""What ModernBERT calls its tensors."""

from collections.abc import Mapping
from typing import Any

from epmq_export.tensors.modules import is_dense
from epmq_export.tensors.naming import Naming

_BEFORE = "model."


_HEAD = {"dense": "head.dense", "norm": "head.norm", "out": "classifier"}

BIASES = {"classifier_bias": "dense", "norm_bias": "norm"}
"""The parts of a classifier's head that have a bias where a key of the config says so; the last linear always
has one.
"""


def naming(config: Mapping[str, Any]) -> Naming:
    """Return the names: without `model.`, which stands before them in models with a head. Heads are no part
    of an encoder; sentence-transformers' Dense modules behind it are.
    """
    biased = {"out", *(part for key, part in BIASES.items() if config.get(key))}
    parts = {
        f"{here}.{kind}": f"{there}.{kind}"
        for here, there in _HEAD.items()
        for kind in ("weight", *(["bias"] if here in biased else []))
    }
    return Naming(lambda name: name.removeprefix(_BEFORE), _needed, classifier=parts)


def _needed(name: str) -> bool:
    return name.startswith(("embeddings.", "layers.", "final_norm.")) or is_dense(name)
