"""Stands in until the branch `tok` is merged."""

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from epmq_export.family import Metadata


def gguf_tokenizer(tokenizer: PreTrainedTokenizerFast, directory: Path, vocabulary: int) -> Metadata:
    return {"tokenizer.ggml.model": "none"}
