"""Unigram tokenizers in GGUF: llama.cpp gives the library's ids, or the tokenizer is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from converters.tokenizers.for_llama_cpp import gguf_tokenizer
from epmq_export.errors import InputError
from tests.tiny import tokenizers as tiny
from tests.tiny.tokenizers import JOIN, METASPACE, STRIP, Rules

TABLE = {
    "\t": " ",
    "\n": " ",
    "\r": " ",
    "\u00a0": " ",
    "\u3000": " ",
    "É": "é",
    "e\u0301": "é",
    "ﬁ": "fi",
    "…": "...",
    "\u200b": "",
    "＜": "<",
    "＞": ">",
    "ｓ": "s",
    "½": "1/2",
}
JOIN_START = {**JOIN, "content": "▁"}
WORDS = {"type": "Sequence", "pretokenizers": [{"type": "WhitespaceSplit"}, METASPACE]}
FORMS: dict[str, tuple[tuple[Rules, ...], Rules]] = {
    "joined": ((JOIN,), METASPACE),
    "stripped": ((STRIP, JOIN_START), METASPACE),
    "words": ((), WORDS),
}


@pytest.mark.parametrize(("form", "table"), [("joined", None), *((form, TABLE) for form in FORMS)])
def test_llama_cpp_gives_the_same_ids(form: str, table: dict[str, str] | None, tmp_path: Path) -> None:
    steps, pre_tokenizer = FORMS[form]
    fast = tiny.tokenizer(tiny.unigram(table, *steps, pre_tokenizer=pre_tokenizer))
    differing, left_out = tiny.compared(fast, tmp_path)
    assert not differing
    assert ("a " in left_out) == (form == "joined")
    assert "a▁b" in left_out
    assert len(left_out) < (1300 if form == "joined" else 200)
    assert ("a ＜ｓ＞ b" in left_out) == (table is not None)


def masked(rules: Rules) -> Rules:
    """Return the rules of XLM-RoBERTa's tokenizer: a token on both sides, and a mask that takes along the
    white space before it.
    """
    rules["post_processor"] = tiny.template(tiny.BOS, "text", tiny.EOS)
    mask = tiny.added("<mask>", len(rules["model"]["vocab"]))
    rules["added_tokens"].append({**mask, "lstrip": True, "normalized": True})
    rules["model"]["vocab"].append(["<mask>", 0.0])
    return rules


def test_a_mask_may_take_along_the_space_before_it(tmp_path: Path) -> None:
    """XLM-RoBERTa's has both settings."""
    fast = tiny.tokenizer(masked(tiny.unigram(TABLE, pre_tokenizer=WORDS)), mask_token="<mask>")
    differing, left_out = tiny.compared(fast, tmp_path)
    assert not differing
    assert " <mask> " in left_out and "a<mask>b" not in left_out
    keys = gguf_tokenizer(fast, tmp_path, len(fast))
    assert keys["tokenizer.ggml.add_bos_token"] is keys["tokenizer.ggml.add_eos_token"] is True


def test_a_token_without_a_use_is_what_unknown_letters_are_measured_by(tmp_path: Path) -> None:
    """CamemBERT has `<unk>NOTUSED`."""
    rules = masked(tiny.unigram(TABLE, pre_tokenizer=WORDS))
    row = len(rules["model"]["vocab"])
    rules["model"]["vocab"].append(["<unk>NOTUSED", -100.0])
    rules["added_tokens"].append(tiny.added("<unk>NOTUSED", row))
    fast = tiny.tokenizer(rules, mask_token="<mask>")
    differing, left_out = tiny.compared(fast, tmp_path)
    assert not differing
    assert "a<unk>NOTUSEDb" in left_out
    types = gguf_tokenizer(fast, tmp_path, len(fast))["tokenizer.ggml.token_type"]
    assert isinstance(types, list) and types[row] == 1 and types[row - 1] == 3


def test_the_keys_are_the_tokenizer_s(tmp_path: Path) -> None:
    fast = tiny.tokenizer(tiny.unigram(TABLE, JOIN))
    keys = gguf_tokenizer(fast, tmp_path, len(fast) + 1)
    charsmap, types, scores = (
        keys[f"tokenizer.ggml.{name}"] for name in ("precompiled_charsmap", "token_type", "scores")
    )
    assert isinstance(charsmap, bytes) and isinstance(types, list) and isinstance(scores, list)
    assert types[:4] == [2, 3, 3, 1] and types[-1] == 5
    assert scores[-1] < min(scores[:-1]) - 1000
    flags = {
        name: keys[f"tokenizer.ggml.{name}"]
        for name in ("add_space_prefix", "remove_extra_whitespaces", "add_bos_token", "add_eos_token")
    }
    assert flags == {
        "add_space_prefix": True,
        "remove_extra_whitespaces": True,
        "add_bos_token": False,
        "add_eos_token": True,
    }


def lower(rules: Rules) -> None:
    rules["model"]["vocab"][1][1] = -1000.0


REFUSED: dict[str, tuple[Callable[[Rules], object], str]] = {
    "not joined": (
        lambda rules: rules["normalizer"]["normalizers"].pop(),
        r"normalises by \[\] .* expected runs of spaces to be joined",
    ),
    "lowercase": (
        lambda rules: rules["normalizer"]["normalizers"].append({"type": "Lowercase"}),
        "normalises by .*Lowercase",
    ),
    "first": (
        lambda rules: rules["pre_tokenizer"].update(prepend_scheme="first"),
        "'prepend_scheme': 'first'",
    ),
    "bytes": (
        lambda rules: rules["model"].update(byte_fallback=True),
        "model.byte_fallback True, expected False",
    ),
    "NUL": (
        lambda rules: rules["model"]["vocab"][7].__setitem__(0, "a\0"),
        r"token 7 is 'a\\x00': llama.cpp can hold neither",
    ),
    "no unknown": (lambda rules: rules["model"].update(unk_id=None), "has no unknown token"),
    "not special": (
        lambda rules: rules["added_tokens"].append(
            tiny.added("<x>", len(rules["model"]["vocab"]), special=False)
        ),
        "'<x>' is not special",
    ),
    "double": (
        lambda rules: rules["model"]["vocab"][5].__setitem__(1, -1.23456789012),
        "the score -1.23456789012, expected one that single precision holds",
    ),
    "lower": (lower, "'<s>' has the score -1000.0, below that of every ordinary piece"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused(name: str, tmp_path: Path) -> None:
    rules = json.loads(json.dumps(tiny.unigram(TABLE, JOIN)))
    change, sentence = REFUSED[name]
    change(rules)
    with pytest.raises(InputError, match=sentence) as caught:
        gguf_tokenizer(tiny.tokenizer(rules), tmp_path, 2000)
    assert str(caught.value).startswith(str(tmp_path))
