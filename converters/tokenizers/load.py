"""The tokenizer of a model directory."""

from pathlib import Path

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from epmq_export.errors import InputError


def fast_tokenizer(directory: Path) -> PreTrainedTokenizerFast:
    """Return the tokenizer of a model directory. Raises InputError where there is none that has a
    vocabulary.
    """
    try:
        tokenizer = AutoTokenizer.from_pretrained(directory, use_fast=True)
    except Exception as error:  # The library raises whatever its parsers raise.
        raise InputError(f"{directory}: its tokenizer cannot be read ({error})") from None
    if not isinstance(tokenizer, PreTrainedTokenizerFast):
        raise InputError(
            f"{directory}: found a {type(tokenizer).__name__}, expected a fast tokenizer (tokenizer.json "
            "or vocab.txt)"
        )
    # The library makes an empty tokenizer where it finds no vocabulary.
    if len(tokenizer) <= len(tokenizer.all_special_tokens):
        raise InputError(f"{directory}: found no vocabulary, expected tokenizer.json or vocab.txt")
    return tokenizer
