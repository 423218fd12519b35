"""The ways to split a text before byte-level BPE that are built into llama.cpp, by llama.cpp's names."""

from collections.abc import Mapping
from typing import NamedTuple

DIGITS = "one digit"
GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_WORD = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+"
_REST = r" ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_LLAMA3 = rf"{_WORD}|\p{{N}}{{1,3}}|{_REST}"
_QWEN2 = rf"{_WORD}|\p{{N}}|{_REST}"


class Way(NamedTuple):
    """A way to split a text."""

    steps: tuple[str, ...]
    """The steps that split a text in turn: regular expressions, or DIGITS."""

    ignore_merges: bool = False
    """Whether a word that is a token needs no merges."""


# The tests measure that these are llama.cpp's ways.
WAYS: Mapping[str, Way] = {
    "gpt-2": Way((GPT2,)),
    "smollm": Way((DIGITS, GPT2)),
    "llama-bpe": Way((_LLAMA3,), ignore_merges=True),
    "smaug-bpe": Way((_LLAMA3,)),
    "qwen2": Way((_QWEN2,)),
}
