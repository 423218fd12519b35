"""Tokenizers that native code gives up on, in tokenizer.json and in GGUF files: one sentence each."""

import json
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gguf import GGUFValueType, TokenType
from tokenizers import Tokenizer

from converters.from_gguf.tokenizer import write_tokenizer
from epmq_export.errors import InputError
from epmq_export.merging.vocabulary import tokenizer_of
from epmq_export.models.tokenizer import fast_tokenizer
from epmq_export.tensors.gguf_file import Value
from tests.tiny import decoder

PANICS: dict[str, dict[str, Any]] = {
    "a charsmap of nothing": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": ""}},
    "a charsmap that ends": {"normalizer": {"type": "Precompiled", "precompiled_charsmap": "AAAAAA=="}},
    "a replacement of nothing": {
        "normalizer": {"type": "Replace", "pattern": {"String": ""}, "content": "x"}
    },
    "pieces of no length": {"pre_tokenizer": {"type": "FixedLength", "length": 0}},
    "a template of no token": {
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "[X]", "type_id": 0}}],
            "pair": [],
            "special_tokens": {},
        }
    },
}


@pytest.fixture(scope="module")
def sound(tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("tokenizer")
    decoder.tokenizer().save_pretrained(place)
    fast_tokenizer(place)
    return place


def forged(sound: Path, place: Path, **changes: Any) -> Path:
    for path in sound.iterdir():
        (place / path.name).write_bytes(path.read_bytes())
    path = place / "tokenizer.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return place


@pytest.mark.parametrize("name", PANICS)
def test_a_tokenizer_that_the_library_panics_on(name: str, sound: Path, tmp_path: Path) -> None:
    place = forged(sound, tmp_path, **PANICS[name])
    with pytest.raises(BaseException) as raised:  # The library's own reading: no Exception.
        Tokenizer.from_file(str(place / "tokenizer.json")).encode("The weather is good.")
    assert type(raised.value).__name__ == "PanicException"
    with pytest.raises(InputError, match=r"its tokenizer cannot be read .the library tokenizers gives up: "):
        fast_tokenizer(place)
    with pytest.raises(InputError, match="found no tokenizer that transformers reads, expected one"):
        tokenizer_of(SimpleNamespace(model_directory=place))  # type: ignore[arg-type]


def test_a_tokenizer_that_the_library_does_not_know(sound: Path, tmp_path: Path) -> None:
    place = forged(sound, tmp_path, pre_tokenizer={"type": "CharDelimiterSplit", "delimiter": ""})
    with pytest.raises(InputError, match="found no tokenizer that transformers reads, expected one"):
        tokenizer_of(SimpleNamespace(model_directory=place))  # type: ignore[arg-type]


def keys(model: str) -> dict[str, Any]:
    tokens = ["<unk>", "<s>", "a", "b", "ab"]
    kinds = [TokenType.UNKNOWN, TokenType.CONTROL, *[TokenType.NORMAL] * 3]
    found = {"model": model, "tokens": tokens, "token_type": [*map(int, kinds)], "bos_token_id": 1}
    more = {"merges": ["a b"]} if model == "gpt2" else {"scores": [0.0, 0.0, -1.0, -2.0, -3.0]}
    return {**found, **more, "add_bos_token": True}


def write(place: Path, model: str, change: Callable[[dict[str, Any]], object]) -> bool:
    found = keys(model)
    change(found)
    metadata = {f"tokenizer.ggml.{key}": Value(GGUFValueType.STRING, value) for key, value in found.items()}
    return write_tokenizer(place, Path("model.gguf"), metadata)


@pytest.mark.parametrize("model", ["gpt2", "llama"])
def test_what_the_forged_keys_are_made_of_is_written(model: str, tmp_path: Path) -> None:
    assert write(tmp_path, model, lambda keys: None)
    assert len(fast_tokenizer(tmp_path)) == 5


@pytest.mark.parametrize(
    ("model", "change", "sentence"),
    [
        ("gpt2", lambda keys: keys.update(merges=5), "merges is no list of texts"),
        ("gpt2", lambda keys: keys.update(merges=[5]), "merges is no list of texts"),
        ("llama", lambda keys: keys.update(scores=5), "keys tokenizer.ggml.scores and token_type are not"),
        ("llama", lambda keys: keys.update(scores=["a"] * 5), "keys tokenizer.ggml.scores and token_type"),
        ("llama", lambda keys: keys["tokens"].__setitem__(4, "a" * 10**6), "one of 1000000 letters"),
        ("gpt2", lambda keys: keys["tokens"].__setitem__(1, "a:b"), "no tokenizer can be made of its keys"),
    ],
)
def test_forged_keys(
    model: str, change: Callable[[dict[str, Any]], object], sentence: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=rf"^model\.gguf: .*{sentence}"):
        write(tmp_path, model, change)
