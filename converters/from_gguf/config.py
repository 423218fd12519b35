"""The config.json of a GGUF file. A key that says something that its architecture here is not known to do is
refused, not ignored.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NoReturn

import numpy as np
import torch
from gguf import GGUFValueType
from torch import Tensor
from transformers import LlamaConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from converters.decoder.kinds import Kind
from converters.decoder.layout import (
    CAPS,
    DIVISORS,
    HEADS,
    KEYS,
    LOCAL_BASE,
    MIXTURE,
    MULTIPLIERS,
    SHARED_HEADS,
    SHORT_LONG,
    divisors,
    gemma_scalar,
)
from converters.decoder.rotations import LONG
from converters.shared.library import config_class
from converters.tokenizers.common import IDS
from epmq_export.errors import InputError
from epmq_export.tensors.gguf_file import Value, shown

# Keys that change nothing where they have these values. None is for any value.
_IDLE: Mapping[str, object] = {
    "attention.causal": True,
    "expert_count": 0,
    "expert_used_count": 0,
    "rope.scaling.finetuned": False,
    "rope.scaling.original_context_length": None,
    "tensor_data_layout": None,
    "vocab_size": None,
}
# The scaling of all Llama 3 models, but for its factor.
_LLAMA3 = {
    "rope_type": "llama3",
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 8192,
}


def write_config(
    directory: Path,
    path: Path,
    kind: Kind,
    metadata: Mapping[str, Value],
    rows: int,
    *,
    tied: bool,
    biased: bool,
    scaling: Mapping[str, Tensor],
) -> None:
    """Write the config of the file at `path`, whose embeddings have `rows`; `scaling` are its divisors of
    frequencies, by the names of their tensors. InputError where it cannot be said.
    """
    config = config_class(kind.name)(
        **_values(kind, _Keys(path, kind.architecture, metadata), rows, tied, biased, scaling)
    )
    config.architectures = [MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[kind.name]]
    config.dtype = torch.float32
    config.save_pretrained(directory)


class _Keys:
    """The keys of one architecture, with those that were not asked for yet."""

    def __init__(self, path: Path, architecture: str, metadata: Mapping[str, Value]) -> None:
        self.path, self.architecture, self.metadata = path, architecture, metadata
        self.left = {key for key in metadata if key.startswith(f"{architecture}.")}

    def fail(self, key: str, expected: str) -> NoReturn:
        found = self.metadata.get(f"{self.architecture}.{key}")
        raise InputError(
            f"{self.path}: key {self.architecture}.{key} is "
            f"{'missing' if found is None else shown(repr(found.value))}, expected {expected}"
        )

    def number(self, key: str, default: float | None = None) -> Any:  # noqa: ANN401 - int or float
        value = self.metadata.get(f"{self.architecture}.{key}")
        self.left.discard(f"{self.architecture}.{key}")
        if value is None and default is not None:
            return default
        if (
            value is None
            or isinstance(value.value, bool)
            or not isinstance(value.value, int | float)
            or not 0 < value.value < 2**31
        ):
            self.fail(key, "a number above 0")
        return _meant(value.value) if value.type == GGUFValueType.FLOAT32 else value.value

    def text(self, key: str, default: str) -> str:
        value = self.metadata.get(f"{self.architecture}.{key}")
        self.left.discard(f"{self.architecture}.{key}")
        return default if value is None else str(value.value)

    def token(self, which: str) -> int | None:
        value = self.metadata.get(f"tokenizer.ggml.{which}_token_id")
        return int(value.value) if value is not None and value.type != GGUFValueType.ARRAY else None

    def finish(self, kind: Kind) -> None:
        """Raise InputError for a key that nothing asked for and that is not known to change nothing."""
        idle = dict(_IDLE)
        if kind.has_windows:
            idle["attention.sliding_window_pattern"] = len(kind.turns["layer_types"].values)
        if kind.windows == "mixed":
            idle["rope.freq_base_swa"] = LOCAL_BASE
        for key in sorted(self.left):
            own = key.removeprefix(f"{self.architecture}.")
            if own not in idle or idle[own] not in (None, self.metadata[key].value):
                self.fail(own, "none" if own not in idle else repr(idle[own]))


def _values(
    kind: Kind, keys: _Keys, rows: int, tied: bool, biased: bool, scaling: Mapping[str, Tensor]
) -> dict[str, Any]:
    mixed = kind.windows == "mixed"
    defaults = {SHARED_HEADS: keys.number(HEADS)}
    sizes = {name: keys.number(key, defaults.get(key)) for key, name in KEYS.items()}
    width, heads = sizes["hidden_size"], sizes["num_attention_heads"]
    head = keys.number("attention.key_length", width // heads)
    turned = keys.number("rope.dimension_count", head)
    if keys.number("attention.value_length", head) != head:
        keys.fail("attention.value_length", f"{head}, the width of a head")
    if turned > head or (turned != head and not kind.partial):
        keys.fail("rope.dimension_count", f"{head}, the width of a head")
    values = {
        "vocab_size": rows,
        **sizes,
        "head_dim": head,
        "rms_norm_eps": keys.number("attention.layer_norm_rms_epsilon"),
        "tie_word_embeddings": tied,
        **{name: keys.token(which) for which, name in IDS.items() if which != "unknown"},
    }
    rope = _rope(keys, 1e6 if mixed else 10000.0)
    if turned != head:
        rope["partial_rotary_factor"] = turned / head
    if DIVISORS in scaling:
        rope = _llama3(keys, rope, values, scaling[DIVISORS])
    elif scaling:
        rope = _longrope(keys, rope, sizes["max_position_embeddings"], scaling)
        values["original_max_position_embeddings"] = rope["original_max_position_embeddings"]
    if kind.scaled:
        values["query_pre_attn_scalar"] = gemma_scalar(kind, sizes["num_hidden_layers"], width, heads, head)
    window = f"{kind.architecture}.attention.sliding_window"
    if kind.has_windows or (kind.windows == "bound" and window in keys.metadata):
        values["sliding_window"] = keys.number("attention.sliding_window")
    if kind.capped:
        values |= {key: keys.number(key, usual) for key, usual in CAPS.items()}
    if mixed:
        local = {"rope_type": "default", "rope_theta": LOCAL_BASE}
        values["rope_parameters"] = {"full_attention": rope, "sliding_attention": local}
    else:
        values["rope_parameters"] = rope
        values |= {"attention_bias": biased} if kind.may_be_biased and not kind.biased else {}
    if kind.mixed:
        known = config_class(kind.name)()
        values |= {name: keys.number(key) for key, name in MIXTURE.items() if hasattr(known, name)}
        if hasattr(known, "norm_topk_prob"):
            values["norm_topk_prob"] = kind.whole_shares  # llama.cpp has no other.
    if kind.multipliers:
        absent = {"attention.scale": head**-0.5, "embedding_scale": 1.0, "residual_scale": 1.0}
        values |= {name: keys.number(key, absent.get(key)) for key, name in MULTIPLIERS.items()}
    if not kind.head_dim:
        del values["head_dim"]
        if head * heads != width:
            keys.fail("attention.key_length", str(width // heads))
    keys.finish(kind)
    return values


def _rope(keys: _Keys, base: float) -> dict[str, Any]:
    found = {"rope_type": "default", "rope_theta": float(keys.number("rope.freq_base", base))}
    kind = keys.text("rope.scaling.type", "none")
    factor = float(keys.number("rope.scaling.factor", 1.0))
    factor *= float(keys.number("rope.scale_linear", 1.0))
    if kind not in ("none", "linear"):
        keys.fail("rope.scaling.type", "none or linear")
    return found if factor == 1 or kind == "none" else {**found, "rope_type": "linear", "factor": factor}


def _longrope(
    keys: _Keys, rope: dict[str, Any], longest: int, scaling: Mapping[str, Tensor]
) -> dict[str, Any]:
    """Return Phi-3's scaling, of both sets of divisors."""
    if missing := [name for name in SHORT_LONG if name not in scaling]:
        there = next(iter(scaling))
        raise InputError(f"{keys.path}: has no tensor {missing[0]}, expected one beside {there}")
    original = keys.number("rope.scaling.original_context_length")
    if original <= 1:
        keys.fail("rope.scaling.original_context_length", "a number above 1")
    usual = math.sqrt(1 + math.log(max(longest / original, 1)) / math.log(original))
    factor = keys.number("rope.scaling.attn_factor", 1.0)
    own = {} if math.isclose(factor, usual, rel_tol=1e-6) else {"attention_factor": factor}
    sets = {key: [*map(_meant, scaling[name].tolist())] for name, key in SHORT_LONG.items()}
    return {
        **rope,
        **sets,
        **own,
        "rope_type": LONG,
        "original_max_position_embeddings": original,
    }


def _meant(number: float) -> float:
    """Return the shortest number that float32 holds as it holds this one: it changes such as 1e-6."""
    return float(str(np.float32(number)))


def _llama3(keys: _Keys, rope: dict[str, Any], values: dict[str, Any], scaling: Tensor) -> dict[str, Any]:
    """Return Llama 3's scaling. The file has no key for it, but divisors of the frequencies, the largest of
    which is the factor. It is right if the scaling gives all of them.
    """
    found = {**rope, **_LLAMA3, "factor": round(float(scaling.max()), 4)}
    frequencies, _ = ROPE_INIT_FUNCTIONS["llama3"](
        LlamaConfig(**{**values, "rope_parameters": found}), torch.device("cpu")
    )
    expected = divisors(rope["rope_theta"], frequencies)
    if (
        rope["rope_type"] != "default"
        or scaling.shape != expected.shape
        or not torch.allclose(expected, scaling.float(), rtol=1e-4)
    ):
        raise InputError(
            f"{keys.path}: tensor {DIVISORS} scales rotations otherwise than Llama 3 does, which is all "
            "that config.json can say here"
        )
    return found
