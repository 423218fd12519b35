"""Byte-level BPE as llama.cpp reads it.

The file holds the tokens in GPT-2's letters for bytes, the merges in their order, and the name of one of the
ways to split a text that are built into llama.cpp. A way is used only where it was measured to be the
tokenizer's own (see byte_splits). llama.cpp differs from the tokenizer, whatever a file says, on texts that
the tokenizer's NFC normalizer would change, because llama.cpp has none, and on texts with one of 4,382
letters and digits that are new in Unicode 16.
"""

import re
import unicodedata
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from converters.tokenizers.byte_splits import DIGITS, GPT2, WAYS, Way
from converters.tokenizers.common import (
    NFC,
    Keys,
    Rules,
    refuse_other_matching,
    refuse_settings,
    rows,
    specials,
)
from epmq_export.errors import InputError

_NAMES = {way: name for name, way in WAYS.items()}
# The letters and digits of Unicode 16 that llama.cpp's table does not have. Every code point below U+30000
# was tried.
_NEWER = re.compile(
    "["
    "\u1c89-\u1c8a\ua7cb-\ua7cd\ua7da-\ua7dc\U000105c0-\U000105f3\U00010d40-\U00010d65\U00010d6f-\U00010d85"
    "\U00010ec2-\U00010ec4\U00011380-\U00011389\U0001138b\U0001138e\U00011390-\U000113b5\U000113b7\U000113d1"
    "\U000113d3\U000116d0-\U000116e3\U00011bc0-\U00011be0\U00011bf0-\U00011bf9\U00013460-\U000143fa"
    "\U00016100-\U0001611d\U00016130-\U00016139\U00016d40-\U00016d6c\U00016d70-\U00016d79\U00018cff"
    "\U0001ccf0-\U0001ccf9\U0001e5d0-\U0001e5ed\U0001e5f0-\U0001e5fa"
    "]"
)
_MODEL = {
    "dropout": (None, 0.0),
    "continuing_subword_prefix": (None, ""),
    "end_of_word_suffix": (None, ""),
    "byte_fallback": (False,),
}


def byte_bpe(tokenizer: PreTrainedTokenizerFast, rules: Rules, directory: Path, vocabulary: int) -> Keys:
    """Return the `tokenizer.ggml.*` keys over `vocabulary` embedding rows.

    Raises InputError where llama.cpp would tokenise in another way.
    """
    model = rules["model"]
    refuse_settings(model, _MODEL, directory, "model")
    if rules["normalizer"] not in (None, NFC):
        raise InputError(
            f"{directory}: its tokenizer has the normalizer {rules['normalizer']}, expected none or NFC: "
            "llama.cpp's byte-level BPE has no other"
        )
    pre = _pre(rules, directory)
    _refuse_missing_bytes(model, directory)
    if not model["merges"]:
        raise InputError(f"{directory}: its tokenizer has no merges, expected some: llama.cpp loads no other")
    refuse_other_matching(rules, directory, tokenizer.mask_token)
    tokens, types = rows(rules, model["vocab"], directory, vocabulary)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre,
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": [" ".join(pair) for pair in model["merges"]],
        **specials(tokenizer, directory, ("eos",)),
    }


def agrees(rules: Rules) -> Callable[[str], bool]:
    """Return a check of a text: whether llama.cpp splits and normalises it as the tokenizer does."""
    composed = rules["normalizer"] == NFC
    return lambda text: not _NEWER.search(text) and (not composed or unicodedata.is_normalized("NFC", text))


def _pre(rules: Rules, directory: Path) -> str:
    """Return llama.cpp's name of the way in which the tokenizer splits texts."""
    steps = rules["pre_tokenizer"] or {"type": None}
    splits = tuple(_splits(step) for step in steps.get("pretokenizers", [steps]))
    # The last step writes bytes as letters. Its settings may make it split the text before that.
    found = Way(splits[:-1] if splits[-1] == "" else splits, bool(rules["model"].get("ignore_merges")))
    known = splits[-1] in ("", GPT2) and steps.get("pretokenizers", [steps])[-1]["type"] == "ByteLevel"
    if known and found in _NAMES:
        return _NAMES[found]
    told = (
        f"{' then '.join(map(repr, found.steps)) or 'nothing'}, with ignore_merges "
        f"{str(found.ignore_merges).lower()}"
    )
    raise InputError(
        f"{directory}: its tokenizer splits texts by {told}, expected one that llama.cpp is known to have "
        f"({', '.join(WAYS)})"
    )


def _splits(step: dict[str, Any]) -> str:
    """Return what a step splits by: a regular expression, DIGITS, nothing (""), or the step itself where
    llama.cpp cannot have it.
    """
    match step:
        case {"type": "Digits", "individual_digits": True}:
            return DIGITS
        case {"type": "Split", "pattern": {"Regex": str(pattern)}, "behavior": "Isolated", "invert": False}:
            return pattern
        case {"type": "ByteLevel", "add_prefix_space": False, "use_regex": bool(before)}:
            return GPT2 if before else ""
        case _:
            return str(step)


def _refuse_missing_bytes(model: dict[str, Any], directory: Path) -> None:
    """Raise InputError where a byte is no token and the tokenizer has an unknown token for it. llama.cpp
    leaves such a byte out.
    """
    plain = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    letters = [chr(byte) for byte in plain] + [chr(0x100 + index) for index in range(256 - len(plain))]
    missing = [letter for letter in letters if letter not in model["vocab"]]
    if missing and model["unk_token"] is not None:
        raise InputError(
            f"{directory}: {len(missing)} bytes are no tokens ({missing[0]!r} the first), expected all 256: "
            f"llama.cpp leaves them out, the tokenizer says {model['unk_token']!r}"
        )
