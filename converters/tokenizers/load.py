"""The tokenizer of a model directory."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from epmq_export.errors import InputError


def fast_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer; InputError where there is none that has a vocabulary."""
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, use_fast=True)
    except Exception as error:  # the library raises whatever its parsers raise
        why = " ".join(str(error).split())
        raise InputError(f"{directory}: its tokenizer cannot be read ({why})") from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InputError(
            f"{directory}: found a {type(tokenizer).__name__}, expected a fast tokenizer (tokenizer.json "
            "or vocab.txt)"
        )
    # The library makes an empty one where it finds no vocabulary, or, of T5's class, one of its own.
    files = sorted({*type(tokenizer).vocab_files_names.values(), "tokenizer.json"})
    held = any((directory / name).is_file() for name in files)
    if not held or len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise InputError(f"{directory}: found no vocabulary, expected {' or '.join(files)}")
    return tokenizer
