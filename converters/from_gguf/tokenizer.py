"""The tokenizer of a GGUF file as tokenizer.json.

A file has only the name of the way in which a text is split into words. A file whose way is not known here is
refused, because another way would silently give other tokens.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from gguf import TokenType
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from converters.tokenizers.byte_splits import DIGITS, GPT2, WAYS
from converters.tokenizers.common import IDS, LEAVING, PHI3_NAMED, TEMPLATE, WORD_START
from epmq_export.errors import EpmqError, InputError, first_line
from epmq_export.models.tokenizer import no_panic, save_tokenizer
from epmq_export.tensors.gguf_file import Value, shown

# The ways by `tokenizer.ggml.pre`. A file without the key has the default.
_WAYS = {**WAYS, "default": WAYS["gpt-2"]}
# The way of the tokenizers that compose letters (NFC), and the way of those that begin a text with a special
# token where no key says so.
_COMPOSED, _BEGINS = "qwen2", "llama-bpe"
# The most letters of a token. Pieces are split at each of theirs, which takes the square of their number.
_LONGEST = 4096


def write_tokenizer(directory: Path, path: Path, metadata: Mapping[str, Value]) -> bool:
    """Write the tokenizer into `directory`, chat template included. Return False where the file at `path` has
    none.

    Raises InputError for a tokenizer that is not known here.
    """
    keys = {key.removeprefix("tokenizer.ggml."): value.value for key, value in metadata.items()}
    kind = keys.get("model", "none")
    if kind in ("none", "no_vocab"):
        return False
    if kind not in ("gpt2", "llama"):
        raise InputError(f"{path}: key tokenizer.ggml.model is {shown(repr(kind))}, expected gpt2 or llama")
    try:
        with no_panic():
            _write(directory, path, kind, keys)
    except (EpmqError, OSError):
        raise
    except Exception as error:  # The library raises whatever it dislikes of tokens, merges and templates.
        why = shown(first_line(error))
        raise InputError(f"{path}: no tokenizer can be made of its keys ({why})") from None
    return True


def _write(directory: Path, path: Path, kind: str, keys: Mapping[str, Any]) -> None:
    """Write the tokenizer of a kind that is known here."""
    tokens = _tokens(path, keys)
    made, begins = _bytes(path, keys, tokens) if kind == "gpt2" else _pieces(path, keys, tokens)
    types = keys.get("token_type", [int(TokenType.NORMAL)] * len(tokens))[: len(tokens)]
    takes_spaces = re.search(PHI3_NAMED, str(keys.get("general.name")), re.IGNORECASE) is not None
    for token, given in zip(tokens, types, strict=True):
        if given in (TokenType.CONTROL, TokenType.USER_DEFINED, TokenType.UNKNOWN):
            special, strip = given != TokenType.USER_DEFINED, takes_spaces and token not in LEAVING
            made.add_tokens([AddedToken(token, special=special, normalized=False, rstrip=strip)])
    named = {
        name: tokens[place] for name in IDS if (place := _place(path, keys, name, len(tokens))) is not None
    }
    _set_ends(made, named, tokens, keys.get("add_bos_token", begins), keys.get("add_eos_token", False))
    roles = {role.removesuffix("_id"): named[name] for name, role in IDS.items() if name in named}
    tokenizer: Any = PreTrainedTokenizerFast(
        tokenizer_object=made, clean_up_tokenization_spaces=False, **roles
    )  # type: ignore[no-untyped-call]
    tokenizer.chat_template = _templates(keys) or None
    save_tokenizer(tokenizer, directory)


def _templates(keys: Mapping[str, Any]) -> str | dict[str, str]:
    """Return the chat template or, where there are several, each by its name."""
    listed = keys.get(f"{TEMPLATE}s")
    names = [str(name) for name in listed] if isinstance(listed, list) else []
    # The names become names of files. llama.cpp's converter writes no others.
    known = [name for name in names if re.fullmatch("[A-Za-z0-9_]+", name)]
    places = {"default": TEMPLATE, **{name: f"{TEMPLATE}.{name}" for name in known}}
    found = {name: text for name, place in places.items() if isinstance(text := keys.get(place), str)}
    return found["default"] if [*found] == ["default"] else found


def _tokens(path: Path, keys: Mapping[str, Any]) -> list[str]:
    """Return the tokens by id, without the rows at the end that no text uses."""
    tokens, types = keys.get("tokens"), keys.get("token_type")
    known = types is None or (
        isinstance(types, list) and isinstance(tokens, list) and len(types) == len(tokens)
    )
    if not isinstance(tokens, list) or not all(isinstance(token, str) for token in tokens) or not known:
        raise InputError(f"{path}: key tokenizer.ggml.tokens is no list of texts, each with its token_type")
    count = len(tokens)
    while types is not None and count and types[count - 1] == TokenType.UNUSED:
        count -= 1
    if long := next((token for token in tokens if len(token) > _LONGEST), None):
        raise InputError(
            f"{path}: key tokenizer.ggml.tokens has one of {len(long)} letters, expected at most {_LONGEST}"
        )
    if len(set(tokens[:count])) != count:
        raise InputError(f"{path}: key tokenizer.ggml.tokens has a token twice, expected it once")
    return tokens[:count]


def _place(path: Path, keys: Mapping[str, Any], name: str, count: int) -> int | None:
    """Return the id of a special token, or None."""
    place = keys.get(f"{name}_token_id")
    if place is not None and (not isinstance(place, int) or not 0 <= place < count):
        raise InputError(
            f"{path}: key tokenizer.ggml.{name}_token_id is {shown(repr(place))}, expected one of the "
            f"{count} tokens' ids"
        )
    return place


def _bytes(path: Path, keys: Mapping[str, Any], tokens: Sequence[str]) -> tuple[Tokenizer, bool]:
    """Return a byte-level BPE tokenizer, and whether it begins texts with a special token."""
    name = keys.get("pre", "default")
    way = _WAYS.get(name) if isinstance(name, str) else None
    if way is None:
        found, ways = shown(repr(name)), ", ".join(_WAYS)
        raise InputError(
            f"{path}: key tokenizer.ggml.pre is {found}, expected one of {ways}: how others split texts "
            "is not known here"
        )
    listed = keys.get("merges", [])
    if not isinstance(listed, list) or not all(isinstance(merge, str) for merge in listed):
        raise InputError(f"{path}: key tokenizer.ggml.merges is no list of texts")
    merges = [tuple(merge.split(" ")) for merge in listed]
    known = set(tokens)
    for pair in merges:
        if len(pair) != 2 or not known.issuperset((*pair, "".join(pair))):
            raise InputError(
                f"{path}: key tokenizer.ggml.merges has {shown(repr(' '.join(pair)))}, expected two "
                "tokens that make a third"
            )
    made = Tokenizer(
        models.BPE({token: row for row, token in enumerate(tokens)}, merges, ignore_merges=way.ignore_merges)
    )
    steps: list[Any] = [
        pre_tokenizers.Digits(individual_digits=True)
        if step == DIGITS
        else pre_tokenizers.Split(Regex(step), "isolated")
        for step in way.steps
        if step != GPT2  # The last step splits so itself.
    ]
    steps.append(pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=GPT2 in way.steps))
    made.pre_tokenizer = pre_tokenizers.Sequence(steps) if len(steps) > 1 else steps[0]
    made.decoder = decoders.ByteLevel()
    if name == _COMPOSED:
        made.normalizer = normalizers.NFC()
    return made, name == _BEGINS


def _pieces(path: Path, keys: Mapping[str, Any], tokens: Sequence[str]) -> tuple[Tokenizer, bool]:
    """Return SentencePiece's BPE, and whether it begins texts with a special token. Of neighbours that make a
    piece, those with the highest score are joined.
    """
    scores, types = keys.get("scores"), keys.get("token_type")
    if (
        not isinstance(scores, list)
        or not all(isinstance(score, int | float) for score in scores)
        or types is None
        or len(scores) < len(tokens)
    ):
        raise InputError(
            f"{path}: keys tokenizer.ggml.scores and token_type are not there for all tokens, expected "
            "both for model llama"
        )
    rows = {token: row for row, token in enumerate(tokens)}
    joined = [row for row in range(len(tokens)) if types[row] in (TokenType.NORMAL, TokenType.USER_DEFINED)]
    merges: list[tuple[str, str]] = []
    for row in sorted(joined, key=lambda row: (-scores[row], row)):
        token = tokens[row]
        ways = [
            (token[:end], token[end:])
            for end in range(1, len(token))
            if token[:end] in rows and token[end:] in rows
        ]
        merges += sorted(ways, key=lambda way: (rows[way[0]], rows[way[1]]))
    unknown = next(
        (token for token, kind in zip(tokens, types, strict=False) if kind == TokenType.UNKNOWN), None
    )
    made = Tokenizer(models.BPE(rows, merges, unk_token=unknown, fuse_unk=True, byte_fallback=True))
    prefix = bool(keys.get("add_space_prefix", True))
    spaces = normalizers.Replace(" ", WORD_START)
    made.normalizer = normalizers.Sequence([normalizers.Prepend(WORD_START), spaces]) if prefix else spaces
    back = [decoders.Replace(WORD_START, " "), decoders.ByteFallback(), decoders.Fuse()]
    made.decoder = decoders.Sequence([*back, decoders.Strip(" ", 1, 0)] if prefix else back)
    return made, True


def _set_ends(
    made: Tokenizer, named: Mapping[str, str], tokens: Sequence[str], begins: bool, ends: bool
) -> None:
    """Let the tokenizer begin and end texts with special tokens."""
    first = [named["bos"]] if begins and "bos" in named else []
    last = [named["eos"]] if ends and "eos" in named else []
    if first or last:
        pair = [*first, "$A", *last, *(f"{part}:1" for part in (*first, "$B", *last))]
        special = [(token, tokens.index(token)) for token in dict.fromkeys((*first, *last))]
        made.post_processor = processors.TemplateProcessing(
            single=[*first, "$A", *last], pair=pair, special_tokens=special
        )
