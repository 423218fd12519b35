"""SentencePiece's unigram model (T5) as llama.cpp reads it.

Texts are normalised by SentencePiece's table of characters, white space is stripped and runs of it are joined, and the pieces of the
highest total score are taken. llama.cpp differs from the tokenizer, whatever a file says, on three kinds of texts:

- where the tokenizer keeps white space at the end of a text, or before an added token (transformers 5's T5 makes a piece of it);
- texts with a U+2581 of their own, which the tokenizer takes for a space;
- texts that spell an added token only once they are normalised (in full-width letters).
"""

import base64
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from gguf import TokenType
from transformers import PreTrainedTokenizerFast

from converters.vocabulary import WORD_START, Keys, Rules, added_tokens, fragments, refuse_other_matching, refuse_settings, rows, specials
from epmq_export.errors import InputError

_METASPACE = {"type": "Metaspace", "replacement": WORD_START, "prepend_scheme": "always"}
_JOIN = {"type": "Replace", "pattern": {"Regex": " {2,}"}}
_JOIN_SPACE, _JOIN_START = {**_JOIN, "content": " "}, {**_JOIN, "content": WORD_START}
_STRIP = {"type": "Strip", "strip_left": False, "strip_right": True}
# A row that no token names must never be the better way to spell a text.
_NEVER = -1e6


def unigram(tokenizer: PreTrainedTokenizerFast, rules: Rules, directory: Path, vocabulary: int) -> Keys:
    """The `tokenizer.ggml.*` keys over `vocabulary` embedding rows."""
    model = rules["model"]
    refuse_settings(model, {"byte_fallback": (False, None)}, directory, "model")
    charsmap, _ = _normalisation(rules, directory)
    refuse_other_matching(rules, directory)
    unknown = model["unk_id"]
    if unknown is None:
        raise InputError(f"{directory}: its tokenizer has no unknown token: llama.cpp would take some other token for it")
    for token, entry in added_tokens(rules).items():
        if not entry["special"]:
            raise InputError(f"{directory}: added token {token!r} is not special, expected special ones: llama.cpp does not normalise texts that begin as it does")
    pieces = {piece: row for row, (piece, _) in enumerate(model["vocab"])}
    tokens, types = rows(rules, pieces, directory, vocabulary)
    types[unknown] = int(TokenType.UNKNOWN)
    scores = [float(score) for _, score in model["vocab"]]
    _refuse_other_scores(scores, tokens, types, directory)
    keys: Keys = {
        "tokenizer.ggml.model": "t5",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.scores": scores + [_NEVER] * (vocabulary - len(scores)),
        "tokenizer.ggml.token_type": types,
        **specials(tokenizer, directory, ("eos", "unknown")),
        "tokenizer.ggml.add_space_prefix": True,
        "tokenizer.ggml.remove_extra_whitespaces": True,
    }
    if charsmap:
        keys["tokenizer.ggml.precompiled_charsmap"] = charsmap
    return keys


def agrees(rules: Rules, normalise: Callable[[str], str]) -> Callable[[str], bool]:
    """Of a text, whether llama.cpp normalises it as the tokenizer does."""
    _, keeps_end = _normalisation(rules, Path())

    def same(text: str) -> bool:
        if WORD_START in text:
            return False
        parts = [normalise(part) for part in fragments(rules, text)]
        return not any((keeps_end and part.endswith(" ")) or token in part for part in parts for token in added_tokens(rules))

    return same


def _normalisation(rules: Rules, directory: Path) -> tuple[bytes, bool]:
    """The table of characters, and whether white space at the end is kept."""
    normalizer, pre_tokenizer = rules["normalizer"], rules["pre_tokenizer"] or {}
    steps: list[dict[str, Any]] = normalizer.get("normalizers", [normalizer]) if normalizer else []
    charsmap = b""
    if steps and steps[0]["type"] == "Precompiled":
        charsmap = base64.b64decode(steps[0]["precompiled_charsmap"])
        steps = steps[1:]
    ways = [{key: value for key, value in way.items() if key != "split"} for way in pre_tokenizer.get("pretokenizers", [pre_tokenizer])]
    if ways == [{"type": "WhitespaceSplit"}, _METASPACE] and not steps:
        return charsmap, False
    if ways == [_METASPACE] and steps in ([_JOIN_SPACE], [_STRIP, _JOIN_START]):
        return charsmap, steps == [_JOIN_SPACE]
    raise InputError(
        f"{directory}: its tokenizer normalises by {steps} and splits by {ways}, expected runs of spaces to be joined and to become {WORD_START!r}: llama.cpp's unigram model has no other"
    )


def _refuse_other_scores(scores: list[float], tokens: list[str], types: list[int], directory: Path) -> None:
    """llama.cpp holds scores in single precision and takes the lowest of ordinary pieces for the measure of an unknown one."""
    lowest = min(score for score, kind in zip(scores, types, strict=False) if kind == TokenType.NORMAL)
    for token, score in zip(tokens, scores, strict=False):
        if not math.isclose(float(np.float32(score)), score, rel_tol=1e-12):
            raise InputError(f"{directory}: token {token!r} has the score {score!r}, expected one that single precision holds: ties would be broken otherwise")
        if score < lowest:
            raise InputError(f"{directory}: token {token!r} has the score {score!r}, below that of every ordinary piece: llama.cpp measures unknown ones by those")
