"""The tokenizers of language models as llama.cpp reads them."""

from pathlib import Path

from transformers import PreTrainedTokenizerFast

from epmq_export.errors import InputError
from epmq_export.family import Metadata


def gguf_tokenizer(tokenizer: PreTrainedTokenizerFast, directory: Path, vocabulary: int) -> Metadata:
    raise InputError(f"{directory}: tokenizers of language models are not written in GGUF yet, expected export.formats [onnx]")
