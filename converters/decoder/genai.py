"""genai_config.json, which onnxruntime-genai needs for a decoder, beside the models' folder.

Inputs and outputs have the names that it assumes, but the file relies on no default. The search is greedy, as
its model builder writes it.
"""

from collections.abc import Collection
from typing import Any

from converters.decoder.rotations import longest
from converters.shared.config import Config, head_width

FILE = "genai_config.json"
# What the library calls kinds that it does not know by their own names: a decoder like any other.
_KNOWN_AS = {"mixtral": "decoder", "olmo2": "decoder", "olmoe": "decoder", "qwen3_moe": "decoder"}


def genai_config(kind: str, config: Config, ends: Collection[int], model: str) -> dict[str, Any]:
    """Return the file's content.

    `kind` is the `model_type`, which the library tells architectures by; `ends` are the tokens that end an
    answer; `model` is the path of the model's file from here.
    """
    heads = config.num_attention_heads
    decoder = {
        "session_options": {"provider_options": []},
        "filename": model,
        "head_size": head_width(config),
        "hidden_size": config.hidden_size,
        "num_attention_heads": heads,
        "num_hidden_layers": config.num_hidden_layers,
        "num_key_value_heads": config.num_key_value_heads,
        "inputs": {
            "input_ids": "input_ids",
            "attention_mask": "attention_mask",
            "position_ids": "position_ids",
            "past_key_names": "past_key_values.%d.key",
            "past_value_names": "past_key_values.%d.value",
        },
        "outputs": {
            "logits": "logits",
            "present_key_names": "present.%d.key",
            "present_value_names": "present.%d.value",
        },
    }
    ordered = sorted(ends)
    padding = config.pad_token_id if config.pad_token_id is not None else next(iter(ordered), None)
    tokens = {
        "bos_token_id": config.bos_token_id,
        "eos_token_id": ordered if len(ordered) > 1 else next(iter(ordered), None),
        "pad_token_id": padding,
    }
    return {
        "model": {
            "type": _KNOWN_AS.get(kind, kind),
            "context_length": longest(config),
            "vocab_size": config.vocab_size,
            **{name: token for name, token in tokens.items() if token is not None},
            "decoder": decoder,
        },
        # Keys and values come out together with those of the past, and are not written into one buffer.
        "search": {
            "do_sample": False,
            "max_length": longest(config),
            "past_present_share_buffer": False,
        },
    }
