"""The decoders that embed texts, as records of their language models."""

from collections.abc import Mapping
from dataclasses import replace

from converters.decoder.kinds import KINDS as DECODERS
from converters.decoder.kinds import Kind

KINDS: Mapping[str, Kind] = {
    "qwen3": DECODERS["qwen3"],
    "gemma3_text": replace(DECODERS["gemma3_text"], architecture="gemma-embedding", both_ways=True),
}
"""The kinds by the `model_type` of their configs."""

DENSE = ("gemma-embedding",)
"""The architectures of llama.cpp that have two Dense modules behind the pooling."""
