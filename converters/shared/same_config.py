"""Whether two models' config.json say the same of what is computed. A merge has the base's config, and so an
expert that was trained by another is none of its experts.
"""

import logging
import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from converters.shared.keys import DESCRIBES, Keys, Role
from epmq_export.errors import InputError
from epmq_export.files import read_json
from epmq_export.tensors.directory import CONFIG

log = logging.getLogger(__name__)
Values = Mapping[str, Any]
# Names of one activation.
_ACTIVATIONS = {
    "swish": "silu",
    "gelu_python": "gelu",
    "gelu_new": "gelu_pytorch_tanh",
    "gelu_python_tanh": "gelu_pytorch_tanh",
}
# What the rotations of each type are computed from. Of a type that is not here, all keys are.
_ROTATIONS: Mapping[str, frozenset[str]] = {
    "default": frozenset({"rope_type", "rope_theta", "partial_rotary_factor"}),
    "linear": frozenset({"rope_type", "rope_theta", "partial_rotary_factor", "factor"}),
}
# The types whose rotations depend on the length that a config says.
_BY_LENGTH = ("dynamic", "longrope", "yarn")
# The token that ends CLIP's texts in old configs. The library then reads the highest id, whatever it is.
_OLD_END = 2
_NOTHING: tuple[object, ...] = (None, {}, [])
_LONGEST = 80
_WHY: Mapping[Role, str] = {
    "kept": "the merge has the base's",
    "computes": "what is taken where it is absent is not known, and the merge has the base's",
    "unknown": "this key is not known to change what is computed, and the merge has the base's",
}


def require_same_config(base: Path, expert: Path, name: str, keys: Keys) -> list[str]:
    """Return a sentence for each key of an expert's config.json that differs from the base's and is told.

    `name` is the expert's in the sentences. Raises InputError, with all keys and both values, where some key
    changes what is computed, and for a model of another kind. A directory without a config has nothing to
    compare.
    """
    if not (base / CONFIG).is_file() or not (expert / CONFIG).is_file():
        log.info("%s: no %s to compare with the base's; taking the base's", name, CONFIG)
        return []
    ours, theirs = read_json(base / CONFIG), read_json(expert / CONFIG)
    kind, other = (config.get("model_type") for config in (ours, theirs))
    kind, other = kind or other, other or kind
    part = keys.alone.get(str(other)) if other != kind else None
    if part is None and kind != other and not {kind, other} <= keys.alike:
        raise InputError(
            f"{expert / CONFIG}: found model_type {other!r}, expected {kind!r}, as the base has it"
        )
    if _plain(ours) == _plain(theirs):
        return []
    left, right = _leaves(_read(ours, base, kind)), _leaves(_read(theirs, expert, other))
    if part is not None:
        left = {key.removeprefix(f"{part}."): value for key, value in left.items() if f"{part}." in key}
    found = {
        key: (left.get(key, keys.defaults.get(key)), right.get(key, keys.defaults.get(key)))
        for key in sorted(left.keys() | right.keys())
    }
    found = dict(_first(key, *values) for key, values in found.items() if not _same(key, *values))
    # Where the library has not given both the same keys, one that is absent has a value that is not known.
    unsure = set[str]()
    if kind != other and part is None:
        found = {
            key: values for key, values in found.items() if key.split("[")[0] in left.keys() & right.keys()
        }
    elif _library(kind) is None:
        unsure = found.keys() - (left.keys() & right.keys())
    wrong = {key: found[key] for key in found if keys.role(key) == "computes" and key not in unsure}
    if wrong:
        raise _refusal(wrong, base / CONFIG, expert / CONFIG)
    return [*_told(found, name, keys)]


def _refusal(wrong: Mapping[str, tuple[Any, Any]], base: Path, expert: Path) -> InputError:
    said = ", ".join(
        f"{key} {_shown(theirs)} (the base: {_shown(ours)})" for key, (ours, theirs) in wrong.items()
    )
    return InputError(
        f"{expert}: found {said}, expected what {base} has: a merge computes by one config, and this expert "
        "was trained by another"
    )


def _told(found: Mapping[str, tuple[Any, Any]], name: str, keys: Keys) -> Iterator[str]:
    for key, (ours, theirs) in found.items():
        if (role := keys.role(key)) in _WHY:
            yield (
                f"{name}: {CONFIG} has {key} {_shown(theirs)}, the base's has {_shown(ours)}: {_WHY[role]}"
            )


def _first(key: str, ours: object, theirs: object) -> tuple[str, tuple[object, object]]:
    """Return a key with its two values; of lists with a value for each layer the first that differs."""
    if _layered(key) and isinstance(ours, list) and isinstance(theirs, list):
        for layer, (one, other) in enumerate(zip(ours, theirs, strict=False)):
            if one != other:
                return f"{key}[{layer}]", (one, other)
    return key, (ours, theirs)


def _layered(key: str) -> bool:
    return "layer" in key


def _shown(value: object) -> str:
    """Return a value as a sentence has it, a long one cut."""
    text = "nothing" if value is None else repr(value)
    return text if len(text) <= _LONGEST else f"{text[:_LONGEST]}..."


def _plain(config: Values) -> Values:
    """Return a config as it is written, without what describes in every family."""
    return {key: value for key, value in config.items() if key not in DESCRIBES}


def _library(kind: object) -> Any:  # noqa: ANN401 - the library's classes share no typed base
    """Return the library's class of the configs of a `model_type`, or None."""
    from transformers import CONFIG_MAPPING  # only where two configs are not written alike

    return CONFIG_MAPPING[kind] if isinstance(kind, str) and kind in CONFIG_MAPPING else None


def _read(config: Values, directory: Path, kind: object) -> dict[str, Any]:
    """Return a config as the library reads it, with its defaults and in its own spelling; as it is written
    where the library does not know its kind.
    """
    library = _library(kind)
    if library is None:
        return dict(config)
    try:
        values: dict[str, Any] = library.from_dict({**config, "model_type": kind}).to_dict()
    except Exception as error:  # the library's checks raise a class of their own for every mistake
        raise InputError(
            f"{directory / CONFIG}: found no config of a {kind} ({' '.join(str(error).split())})"
        ) from None
    return _settled(values)


def _settled(values: dict[str, Any]) -> dict[str, Any]:
    """Return a config in which equal models have equal values: a head's width is there, an activation has one
    name, rotations have the keys that they are computed from, and an old way to say the end of CLIP's texts
    is the new one. Parts are settled, too.
    """
    values = {
        key: _settled(value) if key.endswith("_config") and isinstance(value, dict) else value
        for key, value in values.items()
    }
    if values.get("num_key_value_heads") and not values.get("head_dim") and values.get("hidden_size"):
        values["head_dim"] = values["hidden_size"] // values["num_attention_heads"]
    for key in ("hidden_act", "hidden_activation", "classifier_activation"):
        if isinstance(values.get(key), str):
            values[key] = _ACTIVATIONS.get(values[key], values[key])
    if values.get("model_type") == "clip_text_model" and values.get("eos_token_id") == _OLD_END:
        values["eos_token_id"] = values["vocab_size"] - 1
    rotations = values.get("rope_parameters")
    if isinstance(rotations, dict):
        length = values.get("max_position_embeddings")
        parts = {key: value for key, value in rotations.items() if isinstance(value, dict)}
        values["rope_parameters"] = (
            {key: _rotations(value, length) for key, value in parts.items()}
            if parts
            else _rotations(rotations, length)
        )
    return values


def _rotations(found: Values, length: object) -> dict[str, Any]:
    kind = found.get("rope_type", "default")
    used = {key: value for key, value in found.items() if key != "type"}
    if kind in _ROTATIONS:
        used = {key: value for key, value in used.items() if key in _ROTATIONS[kind]}
    if used.get("partial_rotary_factor") == 1:
        del used["partial_rotary_factor"]
    return {**used, "max_position_embeddings": length} if kind in _BY_LENGTH else used


def _leaves(values: Values, before: str = "") -> dict[str, Any]:
    """Return the values of a config by their dotted keys."""
    found: dict[str, Any] = {}
    for key, value in values.items():
        found |= (
            _leaves(value, f"{before}{key}.")
            if isinstance(value, dict) and value
            else {f"{before}{key}": value}
        )
    return found


def _same(key: str, ours: object, theirs: object) -> bool:
    """Return whether two values are one: as float32 holds them, and of a list with a value for each layer
    where both have a layer.
    """
    if isinstance(ours, list) and isinstance(theirs, list):
        return (_layered(key) or len(ours) == len(theirs)) and all(
            _same(key, one, other) for one, other in zip(ours, theirs, strict=False)
        )
    if isinstance(ours, bool) or isinstance(theirs, bool):
        return ours is theirs
    if isinstance(ours, int | float) and isinstance(theirs, int | float):
        return math.isclose(ours, theirs, rel_tol=1e-6)
    return ours == theirs or (ours in _NOTHING and theirs in _NOTHING)
