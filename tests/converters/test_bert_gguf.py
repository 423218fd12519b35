"""BERT in GGUF: names, keys and the vocabulary as llama.cpp spells it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from converters import open_family
from epmq_export.errors import InputError
from epmq_export.verification.runtimes.llama_cpp.runtime import LlamaCpp
from formats.gguf.format import Gguf
from formats.gguf.spec import spec_of
from tests.tiny.bert import VOCABULARY, small_bert, small_packed

CASES = (
    "The weather IS good!",
    "Café CAFÉ cafe\u0301 É é ß",
    "中the中",
    "gooding, [the] [MASK]é",
    "Weather\u00a0is\tGood",
    "xé éx ÉX",
)


def test_every_tensor_of_the_encoder_has_a_name(minilm_directory: Path) -> None:
    family = open_family(minilm_directory)
    with safe_open(minilm_directory / "model.safetensors", "pt") as file:
        canonical = {family.canonical(name) for name in file.keys()} - {None}  # noqa: SIM118 (not a mapping)
    names = spec_of(family).names
    assert set(names) == canonical
    assert len(set(names.values())) == len(names)


def test_the_keys_are_the_config_s(tmp_path: Path) -> None:
    spec = spec_of(open_family(small_bert(tmp_path / "model", pooling="cls")))
    assert spec.architecture == "bert"
    expected = {
        "bert.block_count": 2,
        "bert.context_length": 32,
        "bert.embedding_length": 64,
        "bert.feed_forward_length": 128,
        "bert.attention.head_count": 4,
        "bert.attention.layer_norm_epsilon": 1e-12,
        "bert.attention.causal": False,
        "bert.pooling_type": 2,
        "tokenizer.ggml.token_type_count": 2,
    }
    assert {key: spec.metadata[key] for key in expected} == expected


def test_the_vocabulary_is_spelt_as_llama_cpp_spells_it(tmp_path: Path) -> None:
    metadata = spec_of(open_family(small_bert(tmp_path / "model"))).metadata
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    assert isinstance(tokens, list) and isinstance(types, list)
    assert tokens[:6] == ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "▁the"]
    assert tokens[VOCABULARY.index("##ing")] == "ing"
    assert types[:6] == [3, 3, 3, 3, 3, 1]
    ids = {
        key: metadata[f"tokenizer.ggml.{key}_token_id"]
        for key in ("bos", "cls", "seperator", "unknown", "padding", "mask")
    }
    assert ids == {"bos": 2, "cls": 2, "seperator": 3, "unknown": 1, "padding": 0, "mask": 4}


def test_rows_without_a_token_are_unused(tmp_path: Path) -> None:
    directory = small_bert(tmp_path / "model")
    edit(directory / "config.json", lambda config: config.update(vocab_size=len(VOCABULARY) + 3))
    metadata = spec_of(open_family(directory)).metadata
    tokens, types = metadata["tokenizer.ggml.tokens"], metadata["tokenizer.ggml.token_type"]
    assert isinstance(tokens, list) and isinstance(types, list)
    assert tokens[-3:] == [f"[PAD{len(VOCABULARY) + index}]" for index in range(3)]
    assert types[-3:] == [5, 5, 5]


@pytest.mark.parametrize(
    ("lowercase", "strip_accents"), [(True, None), (False, None), (True, False), (False, True)]
)
def test_cased_and_accented_tokenizers_give_the_same_ids(
    lowercase: bool, strip_accents: bool | None, tmp_path: Path
) -> None:
    packed, family = small_packed(
        tmp_path / "packed", small_bert(tmp_path / "model", lowercase=lowercase, strip_accents=strip_accents)
    )
    path = Gguf().write(packed, family, tmp_path)
    expected = [ids for batch in family.batches(CASES, 1) for ids in batch["input_ids"].tolist()]
    assert LlamaCpp().tokens(path, CASES) == expected


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")


MASK = {
    "id": 4,
    "content": "[MASK]",
    "single_word": False,
    "lstrip": False,
    "rstrip": False,
    "normalized": False,
    "special": True,
}
REFUSED: dict[str, tuple[Callable[[dict[str, Any]], object], str]] = {
    "chinese": (
        lambda rules: rules["normalizer"].update(handle_chinese_chars=False),
        "normalizer.handle_chinese_chars False, expected True",
    ),
    "clean": (
        lambda rules: rules["normalizer"].update(clean_text=False),
        "normalizer.clean_text False, expected True",
    ),
    "normalizer": (
        lambda rules: rules.update(normalizer={"type": "NFC"}),
        "normalizer.type 'NFC', expected 'BertNormalizer'",
    ),
    "no normalizer": (
        lambda rules: rules.update(normalizer=None),
        "normalizer.type None, expected 'BertNormalizer'",
    ),
    "splitting": (
        lambda rules: rules.update(pre_tokenizer={"type": "WhitespaceSplit"}),
        "pre_tokenizer 'WhitespaceSplit'",
    ),
    "prefix": (
        lambda rules: rules["model"].update(continuing_subword_prefix="@@"),
        "continuing_subword_prefix '@@', expected '##'",
    ),
    "template": (
        lambda rules: rules["post_processor"]["single"].pop(),
        "post_processor 'special text', expected 'CLS text SEP'",
    ),
    "normalised": (
        lambda rules: rules["added_tokens"].__setitem__(-1, {**MASK, "normalized": True}),
        r"added token '\[MASK\]' has normalized true",
    ),
    "twins": (
        lambda rules: rules["model"]["vocab"].update({"##▁the": rules["model"]["vocab"].pop("Z")}),
        "two tokens are spelt '▁the'",
    ),
    "too many": (
        lambda rules: rules["model"]["vocab"].update(more=len(VOCABULARY)),
        f"token 'more' has id {len(VOCABULARY)}, but the model has",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused(name: str, tmp_path: Path) -> None:
    directory = small_bert(tmp_path / "model")
    change, sentence = REFUSED[name]
    # the class PreTrainedTokenizerFast takes tokenizer.json as it is; BertTokenizer builds its own rules from
    # the vocabulary
    edit(
        directory / "tokenizer_config.json",
        lambda config: config.update(tokenizer_class="PreTrainedTokenizerFast"),
    )
    edit(directory / "tokenizer.json", change)
    with pytest.raises(InputError, match=sentence) as caught:
        spec_of(open_family(directory))
    assert str(caught.value).startswith(str(directory))
