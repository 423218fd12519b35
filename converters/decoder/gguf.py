"""How decoder language models are laid out in GGUF, as llama.cpp reads their architectures."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast

from converters.decoder.experts import experts_of
from converters.decoder.kinds import Kind
from converters.decoder.layout import (
    CAPS,
    DIVISORS,
    KEYS,
    LOCAL_BASE,
    MIXTURE,
    MULTIPLIERS,
    SHORT_LONG,
    divisors,
    gemma_scalar,
    interleaved,
    offsets,
    rotated,
    tensor_names,
)
from converters.decoder.rotations import LONG, SCALING, rotated_width
from converters.shared.config import Config, head_width
from converters.tokenizers.for_llama_cpp import called, gguf_tokenizer
from epmq_export.errors import InputError
from epmq_export.models.specs import GgufSpec, Metadata

# The architectures of llama.cpp that have biases of the attention and divisors of the rotations' frequencies
# where a file holds them. It does not load these tensors in any other.
_OPTIONAL = ("llama",)
# The scaled rotations, by architecture, that llama.cpp has beside linear ones.
_SCALED = {"llama": "llama3", "phi3": LONG}


def gguf_spec(
    kind: Kind, config: Config, tokenizer: PreTrainedTokenizerFast, directory: Path, rotary: nn.Module
) -> GgufSpec:
    """Return the layout; InputError for a config that llama.cpp would compute otherwise."""
    architecture, path = kind.architecture, directory / "config.json"
    _refuse_other_turns(path, kind, config)
    head = head_width(config)
    metadata: Metadata = {
        **{f"{architecture}.{key}": getattr(config, name) for key, name in KEYS.items()},
        f"{architecture}.attention.key_length": head,
        f"{architecture}.attention.value_length": head,
        f"{architecture}.attention.layer_norm_rms_epsilon": float(config.rms_norm_eps),
        f"{architecture}.rope.dimension_count": rotated_width(config, head) if kind.partial else head,
        f"{architecture}.vocab_size": config.vocab_size,
    }
    if kind.multipliers:
        _refuse_no_multiplier(path, config)
        metadata = {
            **metadata,
            **{f"{architecture}.{key}": float(getattr(config, name)) for key, name in MULTIPLIERS.items()},
        }
    if kind.mixed:
        metadata = {
            **metadata,
            **{
                f"{architecture}.{key}": getattr(config, name)
                for key, name in MIXTURE.items()
                if hasattr(config, name)
            },
        }
    if kind.scaled:
        _refuse_other_scale(path, kind, config)
    if kind.has_windows:
        # Of a window in both directions the library makes the distance from which on nothing is seen.
        window = 2 * (config.sliding_window - 1) if kind.both_ways else config.sliding_window
        metadata = {**metadata, f"{architecture}.attention.sliding_window": window}
    if kind.capped:
        _refuse_no_cap(path, kind, config)
        metadata = {**metadata, **{f"{architecture}.{key}": float(getattr(config, key)) for key in CAPS}}
    rope, constants = (
        (_mixed_rope(path, kind, config), {})
        if kind.windows == "mixed"
        else _rope(path, kind, config.rope_parameters, rotary)
    )
    metadata = {
        **metadata,
        **{f"{architecture}.{key}": value for key, value in rope.items()},
        **gguf_tokenizer(tokenizer, directory, config.vocab_size),
    }
    biased = kind.may_be_biased and config.attention_bias and not kind.biased
    if biased and architecture not in _OPTIONAL:
        raise InputError(
            f"{path}: found attention_bias true, expected false: llama.cpp has no other for {kind.name}"
        )
    if kind.fused and head * config.num_attention_heads != config.hidden_size:
        raise InputError(
            f"{path}: found {config.num_attention_heads} heads of width {head}, expected a hidden_size that "
            f"is theirs together: llama.cpp has no other for {kind.name}"
        )
    if not kind.shared_heads and config.num_key_value_heads != config.num_attention_heads:
        raise InputError(
            f"{path}: found num_key_value_heads {config.num_key_value_heads}, expected "
            f"{config.num_attention_heads}, one for each head: llama.cpp has no other for {kind.name}"
        )
    if config.tie_word_embeddings not in kind.tied:
        found, expected = ("true", "false") if config.tie_word_embeddings else ("false", "true")
        raise InputError(
            f"{path}: found tie_word_embeddings {found}, expected {expected}: llama.cpp loads {kind.name} "
            "with no other head"
        )
    names = tensor_names(
        kind,
        config.num_hidden_layers,
        tied=config.tie_word_embeddings,
        biased=biased,
        experts=experts_of(kind, config),
    )
    orders = {
        name: interleaved(getattr(config, KEYS[key]), head) for name, key in rotated(kind, names).items()
    }
    return GgufSpec(
        architecture=architecture,
        metadata=metadata,
        called=called(tokenizer),
        names=names,
        orders=orders,
        offsets=offsets(kind, names),
        constants=constants,
    )


def _refuse_no_multiplier(path: Path, config: Config) -> None:
    """Raise InputError for a multiplier of 0, which llama.cpp takes for one that is not there."""
    for name in MULTIPLIERS.values():
        if getattr(config, name) == 0:
            raise InputError(f"{path}: found {name} 0, expected another number")


def _refuse_other_scale(path: Path, kind: Kind, config: Config) -> None:
    """Raise InputError for a scale of Gemma's attention that is not the one in llama.cpp's code."""
    scalar = gemma_scalar(
        kind, config.num_hidden_layers, config.hidden_size, config.num_attention_heads, config.head_dim
    )
    if config.query_pre_attn_scalar != scalar:
        raise InputError(
            f"{path}: found query_pre_attn_scalar {config.query_pre_attn_scalar}, expected {scalar}: "
            "llama.cpp has no other"
        )


def _refuse_no_cap(path: Path, kind: Kind, config: Config) -> None:
    """Raise InputError where scores have no bound."""
    for key in CAPS:
        if getattr(config, key) is None:
            raise InputError(
                f"{path}: found {key} null, expected a number: llama.cpp has no {kind.name} without"
            )


def _refuse_other_turns(path: Path, kind: Kind, config: Config) -> None:
    """Raise InputError where a config gives layers other values than llama.cpp's rule does."""
    for key, turns in kind.turns.items():
        expected = [turns.values[layer % len(turns.values)] for layer in range(config.num_hidden_layers)]
        if list(getattr(config, key)) != expected:
            raise InputError(
                f"{path}: found {key} that are not {turns.told}, which is all that llama.cpp has"
            )


def _rope(
    path: Path, kind: Kind, parameters: dict[str, Any], rotary: nn.Module
) -> tuple[dict[str, str | int | float], dict[str, Tensor]]:
    """Return keys without the architecture, and the tensors that the scalings of Llama 3 and Phi-3 take."""
    found: dict[str, str | int | float] = {"rope.freq_base": float(parameters["rope_theta"])}
    rope_type, scaled = parameters["rope_type"], _SCALED.get(kind.architecture)
    if rope_type not in ("default", "linear", scaled):
        expected = f"default, linear or {scaled}" if scaled else "default or linear"
        raise InputError(f"{path}: found rope_type {rope_type!r}, expected {expected}")
    if rope_type == "linear":
        found |= {"rope.scaling.type": "linear", "rope.scaling.factor": float(parameters["factor"])}
    if rope_type == "llama3":
        return found, {DIVISORS: divisors(parameters["rope_theta"], rotary.get_buffer("inv_freq").float())}
    if rope_type == LONG:
        found |= {
            "rope.scaling.original_context_length": parameters["original_max_position_embeddings"],
            "rope.scaling.attn_factor": float(getattr(rotary, SCALING)),
        }
        return found, {name: torch.tensor(parameters[key]).float() for name, key in SHORT_LONG.items()}
    return found, {}


def _mixed_rope(path: Path, kind: Kind, config: Config) -> dict[str, str | int | float]:
    """Return the keys of a model some of whose layers see a window: llama.cpp has the local rotation in its
    code.
    """
    local, whole = config.rope_parameters["sliding_attention"], config.rope_parameters["full_attention"]
    if local["rope_type"] != "default" or local["rope_theta"] != LOCAL_BASE:
        raise InputError(
            f"{path}: found the rope_parameters {local} of sliding_attention, expected the default ones "
            f"with rope_theta {LOCAL_BASE:g}"
        )
    found, _ = _rope(path, kind, whole, nn.Module())
    return found
