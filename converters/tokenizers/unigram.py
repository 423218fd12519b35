"""SentencePiece's unigram model (T5, XLM-RoBERTa, CamemBERT) as llama.cpp reads it.

Texts are normalised by SentencePiece's table of characters, white space is stripped and runs of it are
joined, and the pieces of the highest total score are taken. llama.cpp differs from the tokenizer, whatever a
file says, on these texts:

- texts where the tokenizer keeps white space at the end, or before an added token (transformers 5's T5 makes
  a piece of it);
- texts with white space that the table does not know and the tokenizer takes for a space (T5's table lacks
  U+0085 and a few more);
- texts with a U+2581 of their own, which the tokenizer takes for a space;
- texts with a letter of up to five bytes, its marks included, that the table maps without them (½ with an
  accent);
- repetitions (runs of hyphens, say) that take pieces of two kinds: any order of these has the same score, and
  rounding errors decide;
- texts that spell an added token only once they are normalised (in full-width letters);
- texts that spell an added token without a use (CamemBERT's `<unk>NOTUSED`) whose score is below those of all
  pieces: the tokenizer measures unknown letters by it, and llama.cpp does so only where it is an ordinary
  piece.
"""

import base64
import math
import re
import unicodedata
from collections.abc import Callable, Sequence
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
from gguf import TokenType
from tokenizers.normalizers import Precompiled
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

_METASPACE = {"type": "Metaspace", "replacement": WORD_START, "prepend_scheme": "always"}
_JOIN = {"type": "Replace", "pattern": {"Regex": " {2,}"}}
_JOIN_SPACE, _JOIN_START = {**_JOIN, "content": " "}, {**_JOIN, "content": WORD_START}
_STRIP = {"type": "Strip", "strip_left": False, "strip_right": True}
# White space that a table of characters may leave as it is.
_OTHER_SPACE = re.compile("[\t\n\v\f\r\x85\xa0\u1680\u2000-\u200a\u2028\u2029\u202f\u205f\u3000]")
_ROLES = ("bos_token", "eos_token", "unk_token", "pad_token", "cls_token", "sep_token", "mask_token")
# The score of a row that no token names, which must never be the better way to spell a text.
_NEVER = -1e6


def unigram(tokenizer: PreTrainedTokenizerFast, rules: Rules, directory: Path, vocabulary: int) -> Keys:
    """Return the `tokenizer.ggml.*` keys over `vocabulary` embedding rows.

    Raises InputError where llama.cpp would tokenise in another way.
    """
    model = rules["model"]
    refuse_settings(model, {"byte_fallback": (False, None)}, directory, "model")
    charsmap, _ = _normalisation(rules, directory)
    refuse_other_matching(rules, directory, tokenizer.mask_token)
    unknown = model["unk_id"]
    if unknown is None:
        raise InputError(
            f"{directory}: its tokenizer has no unknown token: llama.cpp would take some other token for it"
        )
    for token, entry in added_tokens(rules).items():
        if not entry["special"]:
            raise InputError(
                f"{directory}: added token {token!r} is not special, expected special ones: llama.cpp "
                "does not normalise texts that begin as it does"
            )
    pieces = {piece: row for row, (piece, _) in enumerate(model["vocab"])}
    tokens, types = rows(rules, pieces, directory, vocabulary)
    types[unknown] = int(TokenType.UNKNOWN)
    scores = [float(score) for _, score in model["vocab"]]
    for token in _lowest(rules) - {getattr(tokenizer, role) for role in _ROLES}:
        types[tokens.index(token)] = int(TokenType.NORMAL)
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


def agrees(rules: Rules, pieces: Callable[[str], Sequence[str]]) -> Callable[[str], bool]:
    """Return a check of a text: whether llama.cpp normalises and splits it as the tokenizer does. `pieces`
    gives the tokenizer's pieces of a text.
    """
    charsmap, keeps_end = _normalisation(rules, Path())
    mapped: Callable[[str], str] = Precompiled(charsmap).normalize_str if charsmap else str
    added, lowest = added_tokens(rules), _lowest(rules)

    def same(text: str) -> bool:
        parts = [mapped(part) for part in fragments(rules, text)]
        spaced = any(part.endswith(" ") if keeps_end else _OTHER_SPACE.search(part) for part in parts)
        spelt = any(token in part for part in parts for token in added)
        spelt = spelt or any(token in text for token in lowest)
        return (
            WORD_START not in text
            and not (spaced or spelt or _tied(pieces(text)))
            and _marks_kept(text, mapped)
        )

    return same


def _lowest(rules: Rules) -> frozenset[str]:
    """Return the added tokens whose score is below those of all ordinary pieces."""
    added = added_tokens(rules)
    least = min(score for piece, score in rules["model"]["vocab"] if piece not in added)
    return frozenset(piece for piece, score in rules["model"]["vocab"] if piece in added and score < least)


def _tied(pieces: Sequence[str]) -> bool:
    """Return whether neighbours, of up to three pieces each, could change places and spell the same."""
    for middle in range(1, len(pieces)):
        lefts = [pieces[middle - count : middle] for count in range(1, min(middle, 3) + 1)]
        rights = [pieces[middle : middle + count] for count in range(1, min(len(pieces) - middle, 3) + 1)]
        for left, right in product(lefts, rights):
            one, other = [*left, *right], [*right, *left]
            if one != other and "".join(one) == "".join(other):
                return True
    return False


def _marks_kept(text: str, mapped: Callable[[str], str]) -> bool:
    """Return whether the tokenizer keeps all marks of a text. It maps a letter and its marks at once where
    they are up to five bytes, and then drops the marks that the table does not know there.
    """
    clusters: list[str] = []
    for letter in text:
        if clusters and (letter in "\u200c\u200d" or unicodedata.category(letter).startswith("M")):
            clusters[-1] += letter
        else:
            clusters.append(letter)
    marked = {cluster for cluster in clusters if len(cluster) > 1 and len(cluster.encode()) < 6}
    return all(
        mapped(cluster) in ("".join(map(mapped, cluster)), unicodedata.normalize("NFKC", cluster))
        for cluster in marked
    )


def _normalisation(rules: Rules, directory: Path) -> tuple[bytes, bool]:
    """Return the table of characters, and whether white space at the end is kept. Raises InputError for other
    ways to normalise.
    """
    normalizer, pre_tokenizer = rules["normalizer"], rules["pre_tokenizer"] or {}
    steps: list[dict[str, Any]] = normalizer.get("normalizers", [normalizer]) if normalizer else []
    charsmap = b""
    if steps and steps[0]["type"] == "Precompiled":
        charsmap = base64.b64decode(steps[0]["precompiled_charsmap"])
        steps = steps[1:]
    ways = [
        {key: value for key, value in way.items() if key != "split"}
        for way in pre_tokenizer.get("pretokenizers", [pre_tokenizer])
    ]
    if ways == [_METASPACE] and steps == [_JOIN_SPACE]:
        return charsmap, True
    if charsmap and (ways, steps) in (
        ([{"type": "WhitespaceSplit"}, _METASPACE], []),
        ([_METASPACE], [_STRIP, _JOIN_START]),
    ):
        return charsmap, False
    raise InputError(
        f"{directory}: its tokenizer normalises by {steps} and splits by {ways}, expected runs of spaces to "
        f"be joined and to become {WORD_START!r}: "
        "llama.cpp's unigram model has no other"
    )


def _refuse_other_scores(scores: list[float], tokens: list[str], types: list[int], directory: Path) -> None:
    """Raise InputError for scores that single precision does not hold, as llama.cpp does, and for scores
    below those of all ordinary pieces, whose lowest is llama.cpp's measure of an unknown piece.
    """
    lowest = min(score for score, kind in zip(scores, types, strict=False) if kind == TokenType.NORMAL)
    for token, score in zip(tokens, scores, strict=False):
        if not math.isclose(float(np.float32(score)), score, rel_tol=1e-12):
            raise InputError(
                f"{directory}: token {token!r} has the score {score!r}, expected one that single "
                "precision holds: ties would be broken otherwise"
            )
        if score < lowest:
            raise InputError(
                f"{directory}: token {token!r} has the score {score!r}, below that of every ordinary "
                "piece: llama.cpp measures unknown ones by those"
            )
