"""A model's config.json, as transformers reads it: mistakes in it are sentences."""

import copy
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from transformers import PreTrainedConfig

from epmq_export.errors import InputError
from epmq_export.files import read_json
from epmq_export.models.family import Family, towers

_DEEPEST, _WIDEST = 2**12, 2**20
# The library makes lists as long as a model is said to be deep, angles as many as a head is said to be wide,
# and names of all classes, before there is a weight that could tell otherwise. Experts are modules, each.
_MOST = {
    **dict.fromkeys(("num_hidden_layers", "num_layers", "num_decoder_layers", "n_layers"), _DEEPEST),
    **dict.fromkeys(("num_experts", "num_local_experts"), _DEEPEST),
    **dict.fromkeys(("hidden_size", "d_model", "dim", "head_dim", "d_kv", "num_labels"), _WIDEST),
}

Config = Any
"""One of the library's config classes, which share no base that has the families' keys."""


def load_config(kind: str, path: Path, library: type[PreTrainedConfig]) -> Config:
    """Return the config of the model that a config.json is of, for blocks whose attention is PyTorch's own.

    `kind` is what the model is called, `library` the class of its configs. InputError, with the name of the
    file, for whatever the library finds wrong with it.
    """
    _refuse_sizes(kind, path, read_json(path))
    try:
        config = copy.deepcopy(library.from_pretrained(path.parent))
    except Exception as error:  # the library's checks raise a class of their own for every mistake
        raise no_config(kind, path, error) from None
    config._attn_implementation = "sdpa"
    config.chunk_size_feed_forward = 0  # it saves memory, changes nothing, and takes lengths of its own alone
    return config


def _refuse_sizes(kind: str, path: Path, content: Mapping[str, Any]) -> None:
    """Raise InputError for a size that no model has, in the config or in a part of it."""
    parts = [content, *(value for value in content.values() if isinstance(value, dict))]
    for key, value in (pair for part in parts for pair in part.items()):
        if key in _MOST and isinstance(value, int) and not 0 <= value <= _MOST[key]:
            raise InputError(
                f"{path}: found {key} {str(value)[:40]}, expected 0 to {_MOST[key]}: no {kind} has another"
            )


def no_config(kind: str, path: Path, error: Exception) -> InputError:
    """Return the sentence of what the library finds wrong with a config."""
    return InputError(f"{path}: found no config of a {kind} ({' '.join(str(error).split())})")


def refuse_other_values(
    kind: str, path: Path, config: Config, known: Mapping[str, tuple[object, ...]]
) -> None:
    """Raise InputError where a key of the config has another value than those that are `known`; a key that it
    has not is passed over.
    """
    for key, values in known.items():
        found = getattr(config, key, values[0])
        if found not in values:
            expected = " or ".join(map(repr, values))
            raise InputError(
                f"{path}: found {key} {found!r}, expected {expected}: family {kind} has no other"
            )


def require_buildable(kind: str, path: Path, family: Family) -> None:
    """Raise InputError where the library makes no modules of the config's sizes, or empty ones."""
    try:
        sizes = {
            f"{block.prefix}{name}": value.numel()
            for tower in towers(family)
            for block in tower.blocks
            for name, value in block.build().state_dict().items()
        }
    except Exception as error:  # the library raises whatever its modules raise
        raise no_config(kind, path, error) from None
    if empty := [name for name, numbers in sizes.items() if numbers == 0]:
        raise InputError(f"{path}: found sizes that leave tensor {empty[0]} empty, expected some above 0")


def head_width(config: Config) -> int:
    """Return the width of one head of the attention."""
    width: int = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    return width
