"""Parts that the tokenizers of all language models need in GGUF: tokens by row, their types, special ids, and
the tokens that begin and end a text.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gguf import TokenType
from transformers import PreTrainedTokenizerFast

from epmq_export.errors import InputError

Rules = dict[str, Any]
"""The content of tokenizer.json."""

Keys = dict[str, str | int | float | bool | bytes | list[str] | list[int] | list[float]]

WORD_START = "\u2581"
"""The letter that SentencePiece writes for a space."""

NFC = {"type": "NFC"}
TEMPLATE = "tokenizer.chat_template"
# The names of special tokens in the file, and those in tokenizers and configs.
IDS = {"bos": "bos_token_id", "eos": "eos_token_id", "unknown": "unk_token_id", "padding": "pad_token_id"}
# The tokens that end a turn of a chat in llama.cpp. The first that a vocabulary has is used.
_ENDS_TURN = ("<|eot_id|>", "<|im_end|>", "<end_of_turn>", "<|end|>")
# Tokens that llama.cpp takes for control tokens wherever it finds them, whatever type the file gives them.
_CONTROL_BY_NAME = {
    *(
        "<|eot_id|>",
        "<|im_end|>",
        "<|end|>",
        "<|return|>",
        "<|call|>",
        "<|calls|>",
        "<|flush|>",
        "<end_of_turn>",
        "<|endoftext|>",
        "</s>",
    ),
    *(
        "<|eom_id|>",
        "<EOT>",
        "_<EOT>",
        "[EOT]",
        "[EOS]",
        "<|end_of_text|>",
        "<end_of_utterance>",
        "<eos>",
        "<turn|>",
        "<|tool_response>",
        "[e~[",
    ),
    *(
        "<|fim_prefix|>",
        "<fim-prefix>",
        "<fim_prefix>",
        "<PRE>",
        "\u2581<PRE>",
        "<|code_prefix|>",
        "<|prefix|>",
    ),
    *(
        "<|fim_suffix|>",
        "<fim-suffix>",
        "<fim_suffix>",
        "<SUF>",
        "\u2581<SUF>",
        "<|code_suffix|>",
        "<|suffix|>",
    ),
    *(
        "<|fim_middle|>",
        "<fim-middle>",
        "<fim_middle>",
        "<MID>",
        "\u2581<MID>",
        "<|code_middle|>",
        "<|middle|>",
    ),
    *(
        "<|fim_pad|>",
        "<fim-pad>",
        "<fim_pad>",
        "<PAD>",
        "[PAD]",
        "<|fim_repo|>",
        "<|repo_name|>",
        "<fim-repo>",
        "<REPO>",
        "<reponame>",
    ),
    *("<|file_sep|>", "<|channel|>", "<|message|>", "<|start|>", "<|constrain|>"),
    *(
        "<\uff5cend\u2581of\u2581sentence\uff5c>",
        "<\uff5cfim\u2581begin\uff5c>",
        "<\uff5cfim\u2581hole\uff5c>",
        "<\uff5cfim\u2581end\uff5c>",
    ),
}


PHI3, PHI3_NAMED = "Phi-3", "phi-?3"
"""What is in the names of models whose added tokens take along the white space behind them in llama.cpp, and
the regular expression by which it finds it, in letters of either case.
"""

LEAVING = frozenset({"<unk>", "<s>", "<|endoftext|>"})
"""The added tokens that do not, even there."""

# It loads no such model without these.
_ASKED = LEAVING | {"</s>"}
# The white space that it knows.
_SPACES = " \t\n\v\f\r"


def takes_spaces(rules: Rules) -> bool:
    """Return whether added tokens take along the white space behind them as Phi-3's do."""
    added = added_tokens(rules)
    taking = {token for token, entry in added.items() if entry["rstrip"]}
    return added.keys() >= _ASKED and taking == added.keys() - LEAVING


def other_space_behind(rules: Rules) -> Callable[[str], bool]:
    """Return a check of a text: whether an added token takes along white space that llama.cpp leaves."""
    taking = [token for token, entry in added_tokens(rules).items() if entry["rstrip"]]
    if not taking:
        return lambda text: False
    pattern = re.compile(rf"(?:{'|'.join(map(re.escape, taking))})\s*?[^\S{_SPACES}]")
    return lambda text: pattern.search(text) is not None


def added_tokens(rules: Rules) -> dict[str, dict[str, Any]]:
    """Return the entries of added tokens by their texts."""
    return {entry["content"]: entry for entry in rules["added_tokens"]}


def rows(
    rules: Rules, pieces: Mapping[str, int], directory: Path, vocabulary: int
) -> tuple[list[str], list[int]]:
    """Return tokens and types by row; a row that no token names is unused. InputError for tokens that
    llama.cpp cannot hold or tell apart.
    """
    tokens, types = placed(rules, pieces, directory, vocabulary)
    for row, token in enumerate(tokens):
        if not token or "\0" in token:
            raise InputError(
                f"{directory}: token {row} is {token!r}: llama.cpp can hold neither an empty one nor a NUL"
            )
    if (twin := twice(tokens)) is not None:
        raise InputError(f"{directory}: two rows are named {twin!r}, so llama.cpp cannot tell them apart")
    return tokens, types


def placed(
    rules: Rules,
    pieces: Mapping[str, int],
    directory: Path,
    vocabulary: int,
    spelt: Callable[[str], str] = str,
) -> tuple[list[str], list[int]]:
    """Return tokens and types by row; a row that no token names is unused. `spelt` is how the file spells a
    piece that is no added token. InputError for a row past the model's embeddings.
    """
    added = added_tokens(rules)
    tokens = [f"[PAD{row}]" for row in range(vocabulary)]
    types = [int(TokenType.UNUSED)] * vocabulary
    for token, row in [*pieces.items(), *((token, entry["id"]) for token, entry in added.items())]:
        if not token and row >= vocabulary:  # This is an empty line at the end of vocab.txt.
            continue
        if not 0 <= row < vocabulary:
            raise InputError(
                f"{directory}: token {token!r} has id {row}, but the model has {vocabulary} embeddings"
            )
        tokens[row], types[row] = spelt(token), int(TokenType.NORMAL)
        if token in added:
            kind = TokenType.CONTROL if added[token]["special"] else TokenType.USER_DEFINED
            tokens[row], types[row] = token, int(kind)
    return tokens, types


def twice(tokens: Sequence[str]) -> str | None:
    """Return a token that stands in two rows; None where there is none."""
    twin, count = Counter(tokens).most_common(1)[0]
    return twin if count > 1 else None


def taken_for_control(rules: Rules, pieces: Iterable[str]) -> frozenset[str]:
    """Return pieces like others that llama.cpp takes for control tokens by their names, such as `</s>` in
    Qwen's vocabulary: nothing in a file helps.
    """
    return frozenset(pieces) & _CONTROL_BY_NAME - added_tokens(rules).keys()


def fragments(rules: Rules, text: str) -> list[str]:
    """Return what is left of a text between its added tokens."""
    added = sorted(added_tokens(rules), key=len, reverse=True)
    return re.split("|".join(map(re.escape, added)), text) if added else [text]


def refuse_settings(
    found: Mapping[str, Any], expected: Mapping[str, tuple[Any, ...]], directory: Path, what: str
) -> None:
    """Raise InputError where a part of tokenizer.json has other values than those, by key, that llama.cpp
    does the same of; the first is what it is told to be.
    """
    for key, accepted in expected.items():
        if found.get(key) not in accepted:
            raise InputError(
                f"{directory}: its tokenizer has {what}.{key} {found.get(key)!r}, expected "
                f"{accepted[0]!r}: llama.cpp has no other"
            )


def refuse_other_matching(rules: Rules, directory: Path, mask: str | None = None) -> None:
    """Raise InputError for added tokens that llama.cpp would find elsewhere: it looks anywhere in the raw
    text, for the longest first.

    `mask` is the token that hides a word in pretraining. It may take along the white space before it, since
    hardly any text has it, and `spaced_before` tells which do.
    """
    added = added_tokens(rules)
    for token, entry in added.items():
        for rule in ("single_word", "lstrip", "rstrip"):
            known = token == mask if rule == "lstrip" else rule == "rstrip" and takes_spaces(rules)
            if entry[rule] and not known:
                raise InputError(
                    f"{directory}: added token {token!r} has {rule} true, expected false: llama.cpp finds "
                    "added tokens wherever they stand"
                )
        if entry["normalized"] and token != mask and rules["normalizer"] not in (None, NFC):
            raise InputError(
                f"{directory}: added token {token!r} has normalized true, expected false: llama.cpp finds "
                "added tokens in the raw text"
            )
    _refuse_overlaps(list(added), directory)


def spaced_before(rules: Rules, mask: str | None) -> Callable[[str], bool]:
    """Return a check of a text: whether white space stands before the token `mask`, and goes with it."""
    if mask is None or not added_tokens(rules).get(mask, {}).get("lstrip"):
        return lambda text: False
    pattern = re.compile(rf"\s{re.escape(mask)}")
    return lambda text: pattern.search(text) is not None


def _refuse_overlaps(tokens: Sequence[str], directory: Path) -> None:
    """Raise InputError where the end of one token begins another, Hugging Face takes the one on the left,
    llama.cpp the longer; runs of one letter aside.
    """
    known: dict[str, list[str]] = {}
    for token in tokens:
        for length in range(1, len(token)):
            known.setdefault(token[:length], []).append(token)
    for left in tokens:
        for start in range(1, len(left)):
            for right in known.get(left[start:], ()):
                if len(right.encode()) >= len(left.encode()) and right != left and len({*left, *right}) > 1:
                    raise InputError(
                        f"{directory}: added token {left!r} ends as {right!r} begins: "
                        "llama.cpp looks for the longer one first, the tokenizer for the one on the left"
                    )


def specials(tokenizer: PreTrainedTokenizerFast, directory: Path, needed: Sequence[str]) -> Keys:
    """Return the ids of special tokens, and whether the tokenizer begins a text with one and ends it with
    one: by what it does, whatever it says. The token that ends a text is llama.cpp's eos, although the
    tokenizer may give that name to another one, which ends a turn of a chat.
    """
    keys: Keys = {}
    ids = {name: getattr(tokenizer, attribute) for name, attribute in IDS.items()}
    plain, whole = tokenizer.encode("a", add_special_tokens=False), tokenizer.encode("a")
    start = next(
        (index for index in range(len(whole)) if plain and whole[index : index + len(plain)] == plain), -1
    )
    around = (
        {"bos": whole[:start], "eos": whole[start + len(plain) :]}
        if start >= 0
        else {"bos": whole, "eos": []}
    )
    for name, found in around.items():
        other = name == "bos" and found and ids["bos"] not in (None, found[0])
        if start < 0 or len(found) > 1 or other:
            raise InputError(
                f"{directory}: its tokenizer makes {whole} of 'a', which is {plain}, "
                f"expected at most bos ({ids['bos']}) before it and one token behind it"
            )
        ids[name] = found[0] if found else ids[name]
    for name, row in ids.items():
        if row is not None:
            keys[f"tokenizer.ggml.{name}_token_id"] = int(row)
        elif name in needed:
            raise InputError(
                f"{directory}: its tokenizer has no {IDS[name].removesuffix('_id')}: llama.cpp would take "
                "some other token for it"
            )
    known = tokenizer.get_vocab()
    ends = next((known[token] for token in _ENDS_TURN if token in known), None)
    if ends is not None:
        keys["tokenizer.ggml.eot_token_id"] = int(ends)
    for name, found in around.items():
        keys[f"tokenizer.ggml.add_{name}_token"] = bool(found)
    return keys


def chat_template(tokenizer: PreTrainedTokenizerFast) -> Keys:
    """Return the directory's own template and those that have other names than `default`, as llama.cpp's
    converter writes them: its names have letters, digits and underscores only.
    """
    found = tokenizer.chat_template or {}
    templates: dict[str, str] = {"default": found} if isinstance(found, str) else dict(found)
    default = templates.pop("default", None)
    named = {re.sub("[^A-Za-z0-9]", "_", name): text for name, text in sorted(templates.items())}
    keys: Keys = {f"{TEMPLATE}.{name}": text for name, text in named.items()}
    if named:
        keys[f"{TEMPLATE}s"] = sorted(named)
    if default is not None:
        keys[TEMPLATE] = default
    return keys
