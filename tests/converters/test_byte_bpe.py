"""Byte-level BPE in GGUF: llama.cpp gives the library's ids, or the tokenizer is refused."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import gguf
import pytest

from converters.tokenizers.for_llama_cpp import agreement, gguf_tokenizer
from epmq_export.errors import InputError
from tests.tiny import tokenizers as tiny
from tests.tiny.tokenizers import Rules

DIGITS = {"type": "Digits", "individual_digits": True}
WAYS: dict[str, tuple[list[Rules], bool]] = {
    "gpt-2": ([tiny.byte_level(True)], False),
    "smollm": ([DIGITS, tiny.byte_level(True)], False),
    "llama-bpe": (tiny.split(tiny.LLAMA3), True),
    "smaug-bpe": (tiny.split(tiny.LLAMA3), False),
    "qwen2": (tiny.split(tiny.QWEN2), False),
}


@pytest.mark.parametrize("name", WAYS)
def test_llama_cpp_gives_the_same_ids(name: str, tmp_path: Path) -> None:
    steps, ignore_merges = WAYS[name]
    fast = tiny.tokenizer(tiny.byte_bpe(*steps, ignore_merges=ignore_merges))
    assert gguf_tokenizer(fast, tmp_path, len(fast))["tokenizer.ggml.pre"] == name
    assert tiny.compared(fast, tmp_path) == ({}, [])


def test_texts_that_nfc_changes_are_what_llama_cpp_gets_wrong(tmp_path: Path) -> None:
    fast = tiny.tokenizer(tiny.byte_bpe(*tiny.split(tiny.QWEN2), normalizer={"type": "NFC"}))
    differing, left_out = tiny.compared(fast, tmp_path)
    assert not differing
    assert "cafe\u0301 nai\u0308ve A\u030angstro\u0308m" in left_out
    assert len(left_out) < 50


def test_a_piece_that_llama_cpp_takes_for_a_control_token_is_known(tmp_path: Path) -> None:
    rules = tiny.byte_bpe(tiny.byte_level(True))
    rules["model"]["vocab"]["<|endoftext|>"] = len(rules["model"]["vocab"]) + 1
    alike = agreement(tiny.tokenizer(rules))
    assert alike("a <|im_end|> b") and not alike("a <|endoftext|> b")
    assert not tiny.compared(tiny.tokenizer(rules), tmp_path)[0]


def test_the_same_way_spelt_as_a_split_has_the_same_name(tmp_path: Path) -> None:
    fast = tiny.tokenizer(tiny.byte_bpe(*tiny.split(tiny.GPT2)))
    assert gguf_tokenizer(fast, tmp_path, len(fast))["tokenizer.ggml.pre"] == "gpt-2"


def test_what_begins_and_ends_a_text_is_what_the_tokenizer_puts_there(tmp_path: Path) -> None:
    rules = tiny.byte_bpe(tiny.byte_level(True))
    rules["post_processor"] = tiny.template(tiny.BOS, "text", tiny.EOS)
    keys = gguf_tokenizer(tiny.tokenizer(rules), tmp_path, 1000)
    found = {
        name: keys[f"tokenizer.ggml.{name}"]
        for name in ("add_bos_token", "add_eos_token", "bos_token_id", "eos_token_id", "eot_token_id")
    }
    assert found == {
        "add_bos_token": True,
        "add_eos_token": True,
        "bos_token_id": 1,
        "eos_token_id": 2,
        "eot_token_id": 3,
    }
    assert tiny.compared(tiny.tokenizer(rules), tmp_path) == ({}, [])


def test_a_mask_may_take_along_the_space_before_it(tmp_path: Path) -> None:
    """RoBERTa's does."""
    rules = tiny.byte_bpe(tiny.byte_level(True))
    rules["post_processor"] = tiny.template(tiny.BOS, "text", tiny.EOS)
    rules["added_tokens"].append({**tiny.added("<mask>", 1000), "lstrip": True})
    differing, left_out = tiny.compared(tiny.tokenizer(rules, mask_token="<mask>"), tmp_path)
    assert not differing
    assert " <mask> " in left_out and "a<mask>b" not in left_out
    with pytest.raises(InputError, match="added token '<mask>' has lstrip true"):
        gguf_tokenizer(tiny.tokenizer(rules), tmp_path, 1001)


def test_the_chat_template_is_the_directory_s(tmp_path: Path) -> None:
    fast = tiny.tokenizer(tiny.byte_bpe(tiny.byte_level(True)))
    assert "tokenizer.chat_template" not in gguf_tokenizer(fast, tmp_path, 1000)
    fast.chat_template = "{{ messages }}"
    assert gguf_tokenizer(fast, tmp_path, 1000)["tokenizer.chat_template"] == "{{ messages }}"


@pytest.mark.parametrize("default", [True, False])
def test_several_chat_templates_are_written_as_llama_cpp_s_converter_does(
    default: bool, tmp_path: Path
) -> None:
    fast = tiny.tokenizer(tiny.byte_bpe(tiny.byte_level(True)))
    templates = {"default": "{{ a }}", "tool_use": "{{ b }}", "rag-2": "{{ c }}"}
    fast.chat_template = {name: text for name, text in templates.items() if default or name != "default"}
    ours = gguf_tokenizer(fast, tmp_path, 1000)
    writer = gguf.GGUFWriter(tmp_path / "theirs.gguf", "llama")
    writer.add_chat_template([{"name": name, "template": text} for name, text in fast.chat_template.items()])
    theirs = {
        key: sorted(value.value) if isinstance(value.value, list) else value.value
        for key, value in writer.kv_data[0].items()
        if "chat_template" in key
    }
    assert {key: value for key, value in ours.items() if "chat_template" in key} == theirs
    assert theirs["tokenizer.chat_templates"] == ["rag_2", "tool_use"]


def set_added(rules: Rules, **changed: Any) -> None:
    rules["added_tokens"][-1].update(changed)


def two_starts(rules: Rules) -> None:
    rules["post_processor"] = tiny.template(tiny.BOS, tiny.BOS, "text")


def other_start(rules: Rules) -> None:
    rules["post_processor"] = tiny.template(tiny.EOS, "text")


def missing_byte(rules: Rules) -> None:
    del rules["model"]["vocab"]["ÿ"]
    rules["model"]["merges"] = [pair for pair in rules["model"]["merges"] if "ÿ" not in "".join(pair)]
    rules["model"]["unk_token"] = tiny.UNKNOWN


REFUSED: dict[str, tuple[Callable[[Rules], object], str]] = {
    "regex": (
        lambda rules: rules["pre_tokenizer"].update(tiny.split(r"\w+|\s+")[0]),
        r"splits texts by '\\\\w\+\|\\\\s\+'",
    ),
    "prefix": (lambda rules: rules["pre_tokenizer"].update(add_prefix_space=True), "add_prefix_space': True"),
    "none": (lambda rules: rules.update(pre_tokenizer=None), "splits texts by .*None"),
    "ignore_merges": (lambda rules: rules["model"].update(ignore_merges=True), "with ignore_merges true"),
    "normalizer": (
        lambda rules: rules.update(normalizer={"type": "Lowercase"}),
        r"the normalizer \{'type': 'Lowercase'\}, expected none or NFC",
    ),
    "dropout": (lambda rules: rules["model"].update(dropout=0.1), "model.dropout 0.1, expected None"),
    "suffix": (
        lambda rules: rules["model"].update(end_of_word_suffix="</w>"),
        "model.end_of_word_suffix '</w>', expected None",
    ),
    "lstrip": (lambda rules: set_added(rules, lstrip=True), "added token '<sep>' has lstrip true"),
    "word": (lambda rules: set_added(rules, single_word=True), "added token '<sep>' has single_word true"),
    "overlap": (
        lambda rules: set_added(rules, content="><|im_start|>"),
        "added token '<unk>' ends as '><|im_start|>' begins",
    ),
    "two starts": (two_starts, "makes .* expected at most bos"),
    "other start": (other_start, r"expected at most bos \(1\)"),
    "no merges": (lambda rules: rules["model"].update(merges=[]), "has no merges, expected some"),
    "missing byte": (missing_byte, "1 bytes are no tokens .'ÿ' the first."),
    "kind": (
        lambda rules: rules.update(model={"type": "WordLevel", "vocab": {"a": 0}, "unk_token": "a"}),
        "is a WordLevel, expected BPE or Unigram",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused(name: str, tmp_path: Path) -> None:
    rules = tiny.byte_bpe(tiny.byte_level(True))
    change, sentence = REFUSED[name]
    change(rules)
    with pytest.raises(InputError, match=sentence) as caught:
        gguf_tokenizer(tiny.tokenizer(json.loads(json.dumps(rules))), tmp_path, 1000)
    assert str(caught.value).startswith(str(tmp_path))


def test_letters_newer_than_llama_cpp_s_table_are_known(tmp_path: Path) -> None:
    alike = agreement(tiny.tokenizer(tiny.byte_bpe(tiny.byte_level(True))))
    assert alike("a\U0001f600b 1") and not alike("a \U00010d401")


def test_a_tokenizer_without_an_end_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"has no eos_token: llama\.cpp would take some other token"):
        gguf_tokenizer(tiny.tokenizer(tiny.byte_bpe(tiny.byte_level(True)), eos_token=""), tmp_path, 1000)


def test_more_tokens_than_the_model_has_embeddings_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has id 100, but the model has 100 embeddings"):
        gguf_tokenizer(tiny.tokenizer(tiny.byte_bpe(tiny.byte_level(True))), tmp_path, 100)
