"""The changes that a merge makes in config.json: the number of layers and the number of tokens."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from epmq_export.errors import InputError

# The keys under which families have the number of layers. T5 and its like have a second one for the decoder,
# and models of two towers have a config for each tower.
_COUNTS = (
    "num_hidden_layers",
    "n_layer",
    "n_layers",
    "num_layers",
    "encoder_layers",
    "decoder_layers",
    "num_decoder_layers",
)
# Parts of towers' names. `vis` stands for `vision` and `visual`.
_TOWERS = ("text", "vis", "audio", "decoder", "encoder")


def layer_changes(
    config: Mapping[str, Any], path: Path, layers: Mapping[str, int], origins: Mapping[str, Sequence[int]]
) -> dict[str, Any]:
    """Return the keys of config.json that change where stacks of `layers` layers (by name) become stacks of
    the layers that `origins` lists, each by the number that it came from.

    Lists of one value a layer (`layer_types`) change with them. Raises InputError where the config does not
    tell which key counts a stack's layers.
    """
    changes: dict[str, Any] = {}
    for stack, origin in origins.items():
        found = _keys(config, stack, layers[stack])
        if len(found) != 1:
            raise InputError(
                f"{path}: found {len(found)} keys that say how many layers {stack} has ({layers[stack]}), "
                f"expected one of {', '.join(_COUNTS)}"
            )
        part, key = found[0]
        values = dict(changes.get(part, config[part]) if part else {**config, **changes})
        new = {key: len(origin)} | {
            name: [value[layer] for layer in origin if layer < len(value)]
            for name, value in values.items()
            if "layer" in name and isinstance(value, list) and len(value) == layers[stack]
        }
        changes |= {part: {**values, **new}} if part else new
    return changes


def _keys(config: Mapping[str, Any], stack: str, count: int) -> list[tuple[str, str]]:
    """Return the keys, each with the part of the config that it is in, that may count the layers of a
    stack.
    """
    parts = {"": config} | {
        name: value for name, value in config.items() if name.endswith("_config") and isinstance(value, dict)
    }
    found = [
        (part, key)
        for part, values in parts.items()
        for key in _COUNTS
        if values.get(key) == count and not isinstance(values.get(key), bool)
    ]
    tower = next((tower for tower in _TOWERS if tower in stack), "text")
    named = {each: [(part, key) for part, key in found if each in part or each in key] for each in _TOWERS}
    if named[tower]:
        return named[tower][:1]
    rest = [item for item in found if not any(item in items for items in named.values())]
    return rest[:1] if len({part for part, _ in rest}) == 1 else rest


def vocabulary_changes(config: Mapping[str, Any], size: int) -> dict[str, Any]:
    """Return the keys of config.json that change where there are `size` rows of embeddings."""
    if "vocab_size" in config or "text_config" not in config:
        return {"vocab_size": size}
    return {"text_config": {**config["text_config"], "vocab_size": size}}
