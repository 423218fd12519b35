"""SentencePiece's BPE in GGUF: llama.cpp gives the library's ids, or the tokenizer is refused."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from converters.from_gguf.tokenizer import write_tokenizer
from converters.tokenizers.for_llama_cpp import called, gguf_tokenizer
from epmq_export.errors import InputError
from epmq_export.tensors.gguf_splits import GgufModel
from epmq_export.verification.runtimes.llama_cpp.runtime import LlamaCpp
from tests.tiny import tokenizers as tiny
from tests.tiny.tokenizers import PREPEND, REPLACE, Rules
from tests.tiny.vocabulary_file import vocabulary_file

LLAMA = {"type": "Sequence", "normalizers": [PREPEND, REPLACE]}
SPLIT = {"type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious", "invert": False}
FORMS: dict[str, tuple[Rules | None, Rules | None, bool]] = {
    "llama": (LLAMA, None, True),
    "gemma": (REPLACE, SPLIT, False),
    "never": (None, {**tiny.METASPACE, "split": False, "prepend_scheme": "never"}, False),
}


@pytest.mark.parametrize("form", FORMS)
def test_llama_cpp_gives_the_same_ids(form: str, tmp_path: Path) -> None:
    normalizer, pre_tokenizer, prefix = FORMS[form]
    fast = tiny.tokenizer(tiny.sentencepiece(normalizer, pre_tokenizer))
    assert gguf_tokenizer(fast, tmp_path, len(fast))["tokenizer.ggml.add_space_prefix"] is prefix
    assert tiny.compared(fast, tmp_path) == ({}, [])


@pytest.mark.parametrize("scheme", ["always", "first"])
def test_a_space_that_metaspace_puts_first_is_known_where_it_differs(scheme: str, tmp_path: Path) -> None:
    fast = tiny.tokenizer(
        tiny.sentencepiece(None, {**tiny.METASPACE, "split": False, "prepend_scheme": scheme})
    )
    differing, left_out = tiny.compared(fast, tmp_path)
    assert not differing
    assert all(
        line.startswith((" ", "▁")) or any(token in line for token in ("<s>", "</s>", "<unk>", "\n\n"))
        for line in left_out
    )
    assert ("x <s> y" in left_out) and ("a<s>b" in left_out) == (scheme == "first")


def test_added_tokens_take_along_spaces_as_phi_3_s_do(tmp_path: Path) -> None:
    rules = tiny.sentencepiece(LLAMA)
    rules["added_tokens"].pop()
    for token in ("<|endoftext|>", "<|user|>", "<|end|>"):
        rules["added_tokens"].append(
            tiny.added(token, len(rules["model"]["vocab"]) + len(rules["added_tokens"]))
        )
    for entry in rules["added_tokens"]:
        entry["rstrip"] = entry["content"] not in ("<unk>", "<s>", "<|endoftext|>")
    fast = tiny.tokenizer(rules)
    assert fast.encode("<|user|>  a") == fast.encode("<|user|>a") != fast.encode("<s>  a")
    assert called(fast) == "Phi-3"
    differing, left_out = tiny.compared(fast, tmp_path)
    assert not differing
    assert all(any(space in line for space in "\xa0\u3000\u2028\x85") for line in left_out)
    keys = {**gguf_tokenizer(fast, tmp_path, len(fast)), "general.name": "Any (Phi-3)"}
    path = vocabulary_file(tmp_path / "named.gguf", keys)
    assert write_tokenizer(tmp_path, path, GgufModel.open(path).metadata)
    read = tiny.PreTrainedTokenizerFast.from_pretrained(tmp_path)
    assert read.encode("<|user|>  a") == fast.encode("<|user|>  a")
    rules["added_tokens"][-1]["rstrip"] = False
    with pytest.raises(InputError, match="'</s>' has rstrip true, expected false"):
        gguf_tokenizer(tiny.tokenizer(rules), tmp_path, 2000)


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, tiny.PreTrainedTokenizerFast]:
    folder = tmp_path_factory.mktemp("small")
    fast = tiny.tokenizer(tiny.sentencepiece(LLAMA))
    return vocabulary_file(folder / "vocabulary.gguf", gguf_tokenizer(fast, folder, len(fast))), fast


@settings(max_examples=3, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
@given(
    texts=st.lists(
        st.one_of(
            st.text("ab= ", max_size=40), st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
        ),
        min_size=50,
        max_size=100,
    )
)
def test_llama_cpp_gives_the_same_ids_for_any_text(
    small: tuple[Path, tiny.PreTrainedTokenizerFast], texts: list[str]
) -> None:
    path, fast = small
    assert LlamaCpp().tokens(path, texts) == [fast.encode(text) for text in texts]


def test_types_and_scores(tmp_path: Path) -> None:
    fast = tiny.tokenizer(tiny.sentencepiece(LLAMA))
    keys = gguf_tokenizer(fast, tmp_path, len(fast) + 1)
    tokens, types, scores = (keys[f"tokenizer.ggml.{name}"] for name in ("tokens", "token_type", "scores"))
    assert isinstance(tokens, list) and isinstance(types, list) and isinstance(scores, list)
    of = dict(zip(tokens, types, strict=True))
    assert [of[token] for token in ("<unk>", "<s>", "<0x0A>", "a", "\n\n", f"[PAD{len(fast)}]")] == [
        2,
        3,
        6,
        1,
        4,
        5,
    ]
    score = dict(zip(tokens, scores, strict=True))
    assert 0 == score["▁▁"] > score["▁▁▁"] > score["▁▁▁▁"] > score["abab"] > score["a"]


def without_byte(rules: Rules) -> None:
    del rules["model"]["vocab"]["<0xFF>"]


def without_a_way(rules: Rules) -> None:
    rules["model"]["merges"].remove(["▁", "▁▁"])


def between(rules: Rules) -> None:
    merges = rules["model"]["merges"]
    spaces = [pair for pair in merges if "".join(pair) == "▁▁▁"]
    merges.remove(spaces[-1])
    merges.append(spaces[-1])


REFUSED: dict[str, tuple[Callable[[Rules], object], str]] = {
    "normalizer": (
        lambda rules: rules["normalizer"]["normalizers"].insert(0, {"type": "NFKC"}),
        "the normalizer .*NFKC.*, expected spaces to become '▁'",
    ),
    "split": (
        lambda rules: rules.update(normalizer=None, pre_tokenizer=tiny.METASPACE),
        "'split': True.*, expected spaces to become '▁'",
    ),
    "both": (
        lambda rules: rules.update(pre_tokenizer={**tiny.METASPACE, "split": False}),
        "expected spaces to become '▁' and nothing else",
    ),
    "ignore_merges": (
        lambda rules: rules["model"].update(ignore_merges=True),
        "model.ignore_merges True, expected False",
    ),
    "byte": (without_byte, "1 bytes are no tokens .'<0xFF>' the first."),
    "unknown": (
        lambda rules: rules["model"].update(unk_token="a"),
        "the unknown token 'a' is no added token",
    ),
    "a way": (without_a_way, "'▁' and '▁▁' are not merged to the token '▁▁▁'"),
    "between": (between, "merges that make '▁▁▁' stand before and behind"),
    "normalised": (
        lambda rules: rules["added_tokens"][-1].update(normalized=True),
        r"added token '\\n\\n' has normalized true",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_tokenizer_that_llama_cpp_would_read_otherwise_is_refused(name: str, tmp_path: Path) -> None:
    rules = json.loads(json.dumps(tiny.sentencepiece(LLAMA)))
    change, sentence = REFUSED[name]
    change(rules)
    with pytest.raises(InputError, match=sentence) as caught:
        gguf_tokenizer(tiny.tokenizer(rules), tmp_path, 2000)
    assert str(caught.value).startswith(str(tmp_path))
