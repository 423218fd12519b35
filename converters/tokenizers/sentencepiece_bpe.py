"""SentencePiece's BPE, as Hugging Face stores it and as llama.cpp reads it.

llama.cpp has no merges. Of all neighbours that make a token together it joins the pair whose token has the
highest score, the leftmost first. That is the tokenizer's order where every way to make a token is a merge,
and where no merge of another token stands between the merges of one token. The score of a token is then minus
the place of its merges. Both conditions are checked. Runs of one letter may stand between each other (Gemma's
runs of spaces do): only parts of the same run compete, and the tests compare those.

llama.cpp differs from the tokenizer, whatever a file says, where the pre-tokenizer is Metaspace and puts a
space before texts: llama.cpp also puts one before a text that begins with one, and behind every added token.
"""

import re
from bisect import bisect_left, bisect_right
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gguf import TokenType
from transformers import PreTrainedTokenizerFast

from converters.tokenizers.common import (
    WORD_START,
    Keys,
    Rules,
    added_tokens,
    fragments,
    refuse_other_matching,
    refuse_settings,
    rows,
    specials,
)
from epmq_export.errors import InputError

_BYTE = re.compile("<0x[0-9A-F]{2}>")
_MODEL = {
    "dropout": (None, 0.0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (True,),
    "ignore_merges": (False, None),
}
_REPLACE = {"type": "Replace", "pattern": {"String": " "}, "content": WORD_START}
_PREPEND = {"type": "Prepend", "prepend": WORD_START}
# This splits nothing once every space is replaced.
_SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}


def sentencepiece_bpe(
    tokenizer: PreTrainedTokenizerFast, rules: Rules, directory: Path, vocabulary: int
) -> Keys:
    """Return the `tokenizer.ggml.*` keys over `vocabulary` embedding rows.

    Raises InputError where llama.cpp would tokenise in another way.
    """
    refuse_settings(rules["model"], _MODEL, directory, "model")
    prefix = _space_prefix(rules, directory)
    refuse_other_matching(rules, directory)
    tokens, types = rows(rules, rules["model"]["vocab"], directory, vocabulary)
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": _scores(rules, tokens, directory),
        "tokenizer.ggml.token_type": _types(rules, tokens, types, directory),
        **specials(tokenizer, directory, ("eos", "unknown")),
        "tokenizer.ggml.add_space_prefix": prefix,
    }


def agrees(rules: Rules) -> Callable[[str], bool]:
    """Return a check of a text: whether llama.cpp puts the same spaces before its parts as the tokenizer."""
    pre_tokenizer = rules["pre_tokenizer"] or {}
    if pre_tokenizer.get("type") != "Metaspace" or pre_tokenizer["prepend_scheme"] == "never":
        return lambda text: True
    first = pre_tokenizer["prepend_scheme"] == "first"

    def same(text: str) -> bool:
        start, *others = fragments(rules, text)
        return not any(part.startswith((" ", WORD_START)) for part in (start, *others)) and not (
            first and any(others)
        )

    return same


def _space_prefix(rules: Rules, directory: Path) -> bool:
    """Return whether a text gets a space before it. Raises InputError for other ways to treat spaces."""
    normalizer, pre_tokenizer = rules["normalizer"], rules["pre_tokenizer"]
    steps = normalizer.get("normalizers", [normalizer]) if normalizer else []
    if steps == [_PREPEND, _REPLACE] and pre_tokenizer is None:
        return True
    if steps == [_REPLACE] and pre_tokenizer in (None, _SPLIT):
        return False
    match steps, pre_tokenizer:
        case [], {
            "type": "Metaspace",
            "replacement": "\u2581",
            "split": False,
            "prepend_scheme": str(scheme),
        }:
            return scheme != "never"
    raise InputError(
        f"{directory}: its tokenizer has the normalizer {normalizer} and the pre-tokenizer {pre_tokenizer}, "
        f"expected spaces to become {WORD_START!r} and nothing else: llama.cpp's SentencePiece has no other"
    )


def _types(rules: Rules, tokens: Sequence[str], types: Sequence[int], directory: Path) -> list[int]:
    """Return the types of the tokens, with those of bytes and of the unknown token."""
    unknown = rules["model"]["unk_token"]
    if unknown is not None and unknown not in added_tokens(rules):
        raise InputError(
            f"{directory}: the unknown token {unknown!r} is no added token, expected one: llama.cpp finds "
            "it in the text"
        )
    missing = [f"<0x{byte:02X}>" for byte in range(256) if f"<0x{byte:02X}>" not in rules["model"]["vocab"]]
    if missing:
        raise InputError(
            f"{directory}: {len(missing)} bytes are no tokens ({missing[0]!r} the first), expected all "
            "256: llama.cpp cannot do without"
        )
    special = {token: TokenType.BYTE for token in tokens if _BYTE.fullmatch(token)} | {
        unknown: TokenType.UNKNOWN
    }
    return [int(special.get(token, kind)) for token, kind in zip(tokens, types, strict=True)]


def _scores(rules: Rules, tokens: Sequence[str], directory: Path) -> list[float]:
    """Return minus the place of each token's first merge. Tokens that no merge makes come last."""
    merges = {tuple(pair): rank for rank, pair in enumerate(rules["model"]["merges"])}
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for (left, right), rank in merges.items():
        first.setdefault(left + right, rank)
        last[left + right] = rank
    _refuse_interleaved(first, last, directory)
    _refuse_other_ways(rules, merges, directory)
    return [-float(first.get(token, len(merges))) for token in tokens]


def _refuse_interleaved(first: Mapping[str, int], last: Mapping[str, int], directory: Path) -> None:
    """Raise InputError where merges of another token stand between the merges of one token."""
    starts = sorted(rank for token, rank in first.items() if len(set(token)) > 1)
    for token in first:
        if bisect_left(starts, last[token]) > bisect_right(starts, first[token]):
            raise InputError(
                f"{directory}: merges that make {token!r} stand before and behind some that make other "
                "tokens: llama.cpp has one score for a token"
            )


def _refuse_other_ways(rules: Rules, merges: Mapping[tuple[str, ...], int], directory: Path) -> None:
    """Raise InputError where a way to make a token is no merge, because llama.cpp makes a token of any two
    neighbours that spell it. Added tokens are found before, so they are made of nothing, unless they consist
    of spaces.
    """
    pieces, added = rules["model"]["vocab"], added_tokens(rules)
    for token in pieces:
        if token in added and WORD_START not in token:
            continue
        for place in range(1, len(token)):
            left, right = token[:place], token[place:]
            if left in pieces and right in pieces and (left, right) not in merges:
                raise InputError(
                    f"{directory}: {left!r} and {right!r} are not merged to the token {token!r}, expected a "
                    "merge for every way to make a token: "
                    "llama.cpp takes them all"
                )
