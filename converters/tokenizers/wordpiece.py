"""A WordPiece tokenizer as llama.cpp reads it.

llama.cpp's own rules are these. Words are split at white space, around punctuation and around CJK ideographs.
The longest known piece is taken from the left. A vocabulary entry that begins a word is written with U+2581
before it, one that continues a word without its `##`, and special tokens as they are. Settings that the
metadata cannot express (another way to split or to clean) are refused here, because a file that tokenises
differently gives other outputs without a warning.
"""

import json
from pathlib import Path
from typing import Any

from transformers import PreTrainedTokenizerFast

from converters.tokenizers.common import WORD_START, Rules, added_tokens, placed, twice
from epmq_export.errors import InputError
from epmq_export.models.specs import Metadata

CONTINUES = "##"
# llama.cpp reads `seperator` and knows [CLS] as the token that begins a text.
_SPECIALS = {
    "bos": "cls_token_id",
    "eos": "sep_token_id",
    "cls": "cls_token_id",
    "seperator": "sep_token_id",
    "padding": "pad_token_id",
    "unknown": "unk_token_id",
    "mask": "mask_token_id",
}
_NEEDED = {"cls_token_id", "sep_token_id", "unk_token_id"}


def wordpiece(tokenizer: PreTrainedTokenizerFast, directory: Path, vocabulary: int) -> Metadata:
    """Return the `tokenizer.ggml.*` keys of a WordPiece tokenizer over `vocabulary` embedding rows.

    Raises InputError where llama.cpp would tokenise in another way than the tokenizer.
    """
    rules: Rules = json.loads(tokenizer.backend_tokenizer.to_str())
    _refuse_other_rules(rules, directory)
    pieces: dict[str, int] = rules["model"]["vocab"]
    _refuse_other_matching(added_tokens(rules), directory)
    tokens, types = placed(rules, pieces, directory, vocabulary, _spelt)
    if (twin := twice(tokens)) is not None:  # such as `##\u2581x` and `x`
        raise InputError(
            f"{directory}: two tokens are spelt {twin!r} in GGUF's vocabulary, so llama.cpp cannot tell "
            "them apart"
        )
    normalizer = rules["normalizer"]
    lowercase = bool(normalizer["lowercase"])
    accents = normalizer["strip_accents"]
    metadata: dict[str, str | int | float | bool | list[str] | list[int] | list[float]] = {
        "tokenizer.ggml.model": "bert",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": types,
    }
    for key, attribute in _SPECIALS.items():
        row = getattr(tokenizer, attribute)
        if row is not None:
            metadata[f"tokenizer.ggml.{key}_token_id"] = row
        elif attribute in _NEEDED:
            raise InputError(
                f"{directory}: its tokenizer has no {attribute.removesuffix('_id')}, which llama.cpp needs"
            )
    metadata["tokenizer.ggml.add_bos_token"] = True
    metadata["tokenizer.ggml.add_eos_token"] = False  # The separator ends the text.
    metadata["tokenizer.ggml.add_sep_token"] = True
    metadata["tokenizer.ggml.normalizer.lowercase"] = lowercase
    metadata["tokenizer.ggml.normalizer.strip_accents"] = lowercase if accents is None else bool(accents)
    return metadata


def _spelt(piece: str) -> str:
    return piece.removeprefix(CONTINUES) if piece.startswith(CONTINUES) else WORD_START + piece


def _refuse_other_rules(rules: dict[str, Any], directory: Path) -> None:
    """Raise InputError for rules that llama.cpp has not. max_input_chars_per_word stays: llama.cpp has no
    such limit, so a word past it becomes pieces there and one [UNK] here.
    """
    model, processor = rules["model"], rules["post_processor"] or {}
    found = {
        "model": model["type"],
        "model.continuing_subword_prefix": model.get("continuing_subword_prefix"),
        **{
            f"normalizer.{key}": (rules["normalizer"] or {}).get(key)
            for key in ("type", "clean_text", "handle_chinese_chars")
        },
        "pre_tokenizer": (rules["pre_tokenizer"] or {}).get("type"),
        "post_processor": _template(processor)
        if processor.get("type") == "TemplateProcessing"
        else processor.get("type"),
    }
    accepted: dict[str, tuple[Any, ...]] = {
        "model": ("WordPiece",),
        "model.continuing_subword_prefix": (CONTINUES,),
        "normalizer.type": ("BertNormalizer",),
        "normalizer.clean_text": (True,),
        "normalizer.handle_chinese_chars": (True,),
        "pre_tokenizer": ("BertPreTokenizer",),
        "post_processor": ("CLS text SEP", "BertProcessing"),
    }
    for key, value in found.items():
        if value not in accepted[key]:
            raise InputError(
                f"{directory}: its tokenizer has {key} {value!r}, expected {accepted[key][0]!r}: "
                "llama.cpp's WordPiece has no other"
            )


def _template(processor: dict[str, Any]) -> str:
    """Return how a template wraps one text, with the first special token called CLS and the last SEP."""
    kinds = ["text" if "Sequence" in part else "special" for part in processor["single"]]
    return "CLS text SEP" if kinds == ["special", "text", "special"] else " ".join(kinds)


def _refuse_other_matching(added: dict[str, dict[str, Any]], directory: Path) -> None:
    """Raise InputError for added tokens that are found otherwise than anywhere in the raw text."""
    for token, entry in added.items():
        for rule in ("normalized", "single_word"):
            if entry[rule]:
                raise InputError(
                    f"{directory}: added token {token!r} has {rule} true, expected false: llama.cpp finds "
                    "added tokens in the raw text"
                )
