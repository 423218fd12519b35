"""A tokenizer that knows BPE or unigram, as llama.cpp reads it."""

import json
from collections.abc import Callable
from pathlib import Path

from transformers import PreTrainedTokenizerFast

from converters.tokenizers import byte_bpe, sentencepiece_bpe, unigram
from converters.tokenizers.common import (
    PHI3,
    chat_template,
    other_space_behind,
    spaced_before,
    taken_for_control,
    takes_spaces,
)
from epmq_export.errors import InputError
from epmq_export.models.specs import Metadata


def gguf_tokenizer(tokenizer: PreTrainedTokenizerFast, directory: Path, vocabulary: int) -> Metadata:
    """Return the `tokenizer.*` keys of a tokenizer over `vocabulary` embedding rows.

    Raises InputError where llama.cpp would tokenise in another way than the tokenizer, but for the texts that
    `agreement` knows.
    """
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    kind = rules["model"]["type"]
    if kind == "Unigram":
        keys = unigram.unigram(tokenizer, rules, directory, vocabulary)
    elif kind != "BPE":
        raise InputError(f"{directory}: its tokenizer is a {kind}, expected BPE or Unigram")
    elif rules["model"]["byte_fallback"]:
        keys = sentencepiece_bpe.sentencepiece_bpe(tokenizer, rules, directory, vocabulary)
    else:
        keys = byte_bpe.byte_bpe(tokenizer, rules, directory, vocabulary)
    return {**keys, **chat_template(tokenizer)}


def agreement(tokenizer: PreTrainedTokenizerFast) -> Callable[[str], bool]:
    """Return a check of a text: whether llama.cpp gives it the ids of the tokenizer. It knows the differences
    that no file can prevent.
    """
    rules = json.loads(tokenizer.backend_tokenizer.to_str())
    model = rules["model"]
    if model["type"] == "Unigram":
        pieces, same = (
            [piece for piece, _ in model["vocab"]],
            unigram.agrees(
                rules, lambda text: tokenizer(text, add_special_tokens=False, verbose=False).tokens()
            ),
        )
    else:
        pieces, same = (
            list(model["vocab"]),
            (sentencepiece_bpe if model["byte_fallback"] else byte_bpe).agrees(rules),
        )
    names = taken_for_control(rules, pieces)
    elsewhere = (spaced_before(rules, tokenizer.mask_token), other_space_behind(rules))
    return lambda text: (
        same(text)
        and not any(differs(text) for differs in elsewhere)
        and not any(name in text for name in names)
    )


def called(tokenizer: PreTrainedTokenizerFast) -> str | None:
    """Return what llama.cpp must find in the model's name to tokenise as the tokenizer does, or None."""
    return PHI3 if takes_spaces(json.loads(tokenizer.backend_tokenizer.to_str())) else None
