"""The tokenizer of a directory gives the ids of its tokenizer.json, whatever transformers takes it for."""

import json
import logging
import shutil
from functools import cache
from pathlib import Path

import pytest
from tokenizers import Tokenizer
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from converters.bert.family import lowered
from epmq_export.errors import InputError
from epmq_export.models import tokenizer as module
from epmq_export.models.hard_texts import hard_to_split
from epmq_export.models.tokenizer import fast_tokenizer, for_every_version, open_tokenizer, save_tokenizer
from tests.tiny import decoder, recipe_project
from tests.tiny import tokenizers as tiny
from tests.tiny.compared_briefly import compared
from tests.tiny.hard_corpus import hard_corpus

CLASSES = ("LlamaTokenizerFast", "LlamaTokenizer", "GPT2Tokenizer", "Qwen2Tokenizer", "UnknownFast", None)


@pytest.fixture(autouse=True)
def _compared_on_all_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_first_difference", compared)


def directory(place: Path, kind: str, rules: tiny.Rules, name: str | None) -> Path:
    """Write config and tokenizer of a model that says it has a tokenizer of the class `name`."""
    tiny.tokenizer(rules).save_pretrained(place)
    decoder.KINDS[kind][0]().save_pretrained(place)
    path = place / "tokenizer_config.json"
    settings = json.loads(path.read_text())
    settings = {**settings, "tokenizer_class": name} if name else settings
    path.write_text(json.dumps(settings))
    return place


RULES = {
    "gpt2": tiny.byte_bpe(tiny.byte_level(True)),
    "qwen2": tiny.byte_bpe(*tiny.split(tiny.QWEN2), normalizer={"type": "NFC"}),
    "llama3": {
        **tiny.byte_bpe(*tiny.split(tiny.LLAMA3), ignore_merges=True),
        "post_processor": tiny.template(tiny.BOS, "text"),
    },
}


@pytest.mark.parametrize("name", CLASSES)
@pytest.mark.parametrize("kind", ["qwen2", "llama"])
@pytest.mark.parametrize("rules", RULES)
def test_its_ids_are_the_file_s(rules: str, kind: str, name: str | None, tmp_path: Path) -> None:
    place = directory(tmp_path / "model", kind, RULES[rules], name)
    found = fast_tokenizer(place)([*hard_corpus()])["input_ids"]
    assert found == ids_by((place / "tokenizer.json").read_text(encoding="utf-8"))


@cache
def ids_by(file: str) -> list[list[int]]:
    """Return the hard corpus's ids by the content of a tokenizer.json."""
    return [row.ids for row in Tokenizer.from_str(file).encode_batch([*hard_corpus()])]


def test_another_reading_is_told_once_with_a_text_and_both_ids(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    place = directory(tmp_path / "model", "qwen2", RULES["gpt2"], "LlamaTokenizerFast")
    texts = list(hard_to_split())
    ids = AutoTokenizer.from_pretrained(place)(texts)["input_ids"]
    file = Tokenizer.from_file(str(place / "tokenizer.json"))
    assert ids != [row.ids for row in file.encode_batch(texts)], (
        "the library follows the file: nothing to mend"
    )
    with caplog.at_level(logging.WARNING, module.__name__):
        fast_tokenizer(place), open_tokenizer(place)
    (message,) = [line for line in caplog.messages if "does not have" not in line]
    assert message.startswith(f"{place / 'tokenizer.json'}: transformers (Qwen2Tokenizer) makes [")
    assert message.endswith("; the file is followed")


def test_a_file_that_cannot_be_followed_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = directory(tmp_path / "model", "llama", RULES["gpt2"], None)
    other = directory(tmp_path / "other", "llama", RULES["llama3"], None)
    # No file is known that the library's plain class reads otherwise, so another file stands in for it.
    opened = PreTrainedTokenizerFast.from_pretrained(other)
    monkeypatch.setattr(PreTrainedTokenizerFast, "from_pretrained", lambda *_, **__: opened)
    monkeypatch.setattr(AutoTokenizer, "from_pretrained", lambda *_, **__: opened)
    with pytest.raises(
        InputError, match=r"model/tokenizer\.json: transformers \(\w+\) makes .* the file itself"
    ):
        open_tokenizer(place)


def test_padding_and_limits_in_the_file_are_no_difference(tmp_path: Path) -> None:
    place = directory(tmp_path / "model", "llama", RULES["gpt2"], None)
    file = Tokenizer.from_file(str(place / "tokenizer.json"))
    file.enable_padding(length=32, pad_token="<s>", pad_id=1)
    file.enable_truncation(8)
    file.save(str(place / "tokenizer.json"))
    assert len(fast_tokenizer(place)("a " * 20)["input_ids"]) > 8


@pytest.mark.parametrize("ending", ["", "\n", "\r\n", "\n\n"])
def test_a_vocabulary_of_lines_is_one(ending: str, tmp_path: Path) -> None:
    place = recipe_project.base(tmp_path / "model", width=32, layers=1)
    expected = fast_tokenizer(place)("the cat sat")["input_ids"]
    shutil.copytree(place, tmp_path / "lines")
    (tmp_path / "lines" / "tokenizer.json").unlink()
    lines = ("\r\n" if ending.startswith("\r") else "\n").join(recipe_project.VOCABULARY) + ending
    (tmp_path / "lines" / "vocab.txt").write_bytes(lines.encode())
    assert fast_tokenizer(tmp_path / "lines")("the cat sat")["input_ids"] == expected


def test_settings_that_only_version_5_knows() -> None:
    settings = {
        "tokenizer_class": "TokenizersBackend",
        "extra_special_tokens": ["<a>", "<b>"],
        "additional_special_tokens": ["<b>", "<c>"],
        "bos_token": "<s>",
    }
    assert for_every_version(settings) == {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "additional_special_tokens": ["<b>", "<c>", "<a>"],
        "bos_token": "<s>",
    }
    kept = {"tokenizer_class": "BertTokenizer", "extra_special_tokens": {"image_token": "<i>"}}
    assert for_every_version(kept) == kept


def test_what_is_saved_is_read_as_before(tmp_path: Path) -> None:
    made = fast_tokenizer(directory(tmp_path / "model", "llama", RULES["gpt2"], None))
    made.chat_template = {"default": "{{ a }}", "rag": "{{ b }}"}
    save_tokenizer(made, tmp_path / "saved")
    settings = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    back = AutoTokenizer.from_pretrained(tmp_path / "saved")
    assert back.chat_template == made.chat_template and back("a b")["input_ids"] == made("a b")["input_ids"]
    made.chat_template = {"../away": "{{ a }}"}
    with pytest.raises(InputError, match=r"found a chat template named '\.\./away', expected letters"):
        save_tokenizer(made, tmp_path / "saved")
    assert not (tmp_path / "away.jinja").exists()


def test_directories_with_the_same_files_share_one(tmp_path: Path) -> None:
    """What one of them is asked for, such as padding, is not what another one does of itself."""
    place = recipe_project.base(tmp_path / "model", width=32, layers=1)
    first = fast_tokenizer(place)
    shutil.copytree(place, tmp_path / "copy")
    (tmp_path / "copy" / "packed.json").write_text("{}")
    first("the cat", padding="max_length", truncation=True, max_length=9)
    assert fast_tokenizer(tmp_path / "copy") is first
    assert first.backend_tokenizer.encode("the cat").ids == first("the cat")["input_ids"]
    settings = tmp_path / "copy" / "tokenizer_config.json"
    settings.write_text(json.dumps(json.loads(settings.read_text()) | {"model_max_length": 7}))
    assert fast_tokenizer(tmp_path / "copy").model_max_length == 7 != first.model_max_length


def test_a_tokenizer_that_lowers_is_one_of_its_own(tmp_path: Path) -> None:
    place = recipe_project.base(tmp_path / "model", width=32, layers=1)
    shared = fast_tokenizer(place)
    before = shared.backend_tokenizer.to_str()
    assert lowered(shared).backend_tokenizer.to_str() != before == shared.backend_tokenizer.to_str()
