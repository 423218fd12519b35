"""What sentence-transformers' files say of an encoder, as PyTorch, ONNX Runtime and llama.cpp compute it."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from transformers import AutoTokenizer, BertConfig, BertModel

from converters import open_family, require_same_settings
from converters.bert.sentence import MODES
from epmq_export.errors import InputError
from epmq_export.models import reference
from epmq_export.tensors.checkpoint import open_checkpoint
from epmq_export.tensors.source import renamed
from epmq_export.verification.runtimes.llama_cpp.runtime import LlamaCpp
from epmq_export.verification.runtimes.onnxruntime.runtime import OnnxRuntime
from formats.gguf.format import Gguf
from formats.gguf.spec import spec_of
from formats.onnx.format import OnnxQdq
from tests.tiny.bert import small_bert, small_packed

CPU = torch.device("cpu")
TEXTS = ["The weather is good!", "a", "café, good [x]", "the weather is good the weather is good , a b c d e"]
Rows = NDArray[np.float64]
# One row for a text, of its own hidden states [length, width], by the formulas of sentence-transformers.
BY_MODE: dict[str, Callable[[Rows], Rows]] = {
    "cls": lambda hidden: hidden[0],
    "max": lambda hidden: hidden.max(0),
    "mean": lambda hidden: hidden.mean(0),
    "mean_sqrt_len_tokens": lambda hidden: hidden.sum(0) / np.sqrt(len(hidden)),
    "weightedmean": lambda hidden: np.average(hidden, 0, weights=np.arange(1, len(hidden) + 1)),
    "lasttoken": lambda hidden: hidden[-1],
}
ALL = [*MODES.values()]


def edit(path: Path, content: object) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")


def modules(directory: Path, *kinds: str, package: str = "sentence_transformers.models") -> None:
    """Write modules.json; a module of a kind lies in a folder of its number and its name."""
    edit(
        directory / "modules.json",
        [
            {"idx": i, "name": str(i), "path": f"{i}_{kind}" if i else "", "type": f"{package}.{kind}"}
            for i, kind in enumerate(kinds)
        ],
    )


def model(directory: Path, pooling: dict[str, Any], *kinds: str, **settings: Any) -> Path:
    small_bert(directory, **settings)
    torch.manual_seed(3)
    BertModel(BertConfig.from_pretrained(directory)).save_pretrained(directory)
    edit(directory / "1_Pooling" / "config.json", {"word_embedding_dimension": 64, **pooling})
    if kinds:
        modules(directory, *kinds)
    return directory


def flags(*modes: str) -> dict[str, Any]:
    """Return a pooling's config as sentence-transformers has long written it."""
    return {key: mode in modes for key, mode in MODES.items()}


@torch.no_grad()
def by_hand(directory: Path, modes: list[str]) -> Rows:
    encoder, tokenizer = BertModel.from_pretrained(directory).eval(), AutoTokenizer.from_pretrained(directory)
    rows = []
    for text in TEXTS:
        hidden = encoder(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].double().numpy()
        rows.append(np.concatenate([BY_MODE[mode](hidden) for mode in modes]))
    return np.stack(rows)


def computed(directory: Path) -> NDArray[np.float32]:
    family = open_family(directory)
    return reference.outputs(family, renamed(open_checkpoint(directory), family.canonical), TEXTS, CPU)


@pytest.mark.parametrize(
    ("pooling", "modes"),
    [
        *((flags(mode), [mode]) for mode in ALL),
        *(({"pooling_mode": mode}, [mode]) for mode in ALL),
        # Of several, old configs have this order, and new ones their own.
        (flags("weightedmean", "max", "cls"), ["cls", "max", "weightedmean"]),
        ({"pooling_mode": ["mean", "cls"]}, ["mean", "cls"]),
        ({"pooling_mode_lasttoken": True}, ["lasttoken"]),
        (flags(), ["mean"]),
        ({}, ["mean"]),
    ],
)
def test_every_pooling_is_that_of_sentence_transformers(
    pooling: dict[str, Any], modes: list[str], tmp_path: Path
) -> None:
    directory = model(tmp_path / "model", pooling, "Transformer", "Pooling")
    np.testing.assert_allclose(computed(directory), by_hand(directory, modes), rtol=0, atol=2e-6)


def test_a_pooling_elsewhere_and_modules_of_a_newer_package_are_read(tmp_path: Path) -> None:
    directory = model(tmp_path / "model", flags("mean"))
    (directory / "1_Pooling").rename(directory / "2_Pooling")
    edit(directory / "2_Pooling" / "config.json", flags("max"))
    package = "sentence_transformers.sentence_transformer.modules.x"
    modules(directory, "Transformer", "Dropout", "Pooling", "Normalize", package=package)
    expected = by_hand(directory, ["max"])
    expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    np.testing.assert_allclose(computed(directory), expected, rtol=0, atol=2e-6)


def test_onnx_runtime_pools_and_normalises_as_the_modules_say(tmp_path: Path) -> None:
    modes = ["cls", "max", "mean_sqrt_len_tokens", "weightedmean", "lasttoken"]
    directory = model(tmp_path / "model", flags(*modes), "Transformer", "Pooling", "Normalize")
    packed, family = small_packed(tmp_path / "packed", directory, grid=None)
    path = OnnxQdq().write(packed, family, tmp_path / "onnx")
    found = OnnxRuntime().outputs(path, TEXTS, exact=True)
    expected = reference.outputs(family, packed, TEXTS, CPU)
    assert found.shape == (len(TEXTS), 5 * 64)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6)


@pytest.mark.parametrize("mode", ["mean", "cls", "lasttoken"])
def test_llama_cpp_pools_as_the_file_says_and_its_users_normalise(mode: str, tmp_path: Path) -> None:
    directory = model(tmp_path / "model", flags(mode), "Transformer", "Pooling", "Normalize")
    packed, family = small_packed(tmp_path / "packed", directory, grid=None)
    (tmp_path / "gguf").mkdir()
    path, export = Gguf().write(packed, family, tmp_path / "gguf"), family.exports["gguf"]
    found = LlamaCpp().outputs(path, TEXTS, exact=True)
    expected = reference.outputs(export.computed(), packed, TEXTS, CPU)
    assert np.linalg.norm(found - expected) < 1e-3 * np.linalg.norm(expected)
    read = export.as_read(lambda texts: LlamaCpp().outputs(path, texts, exact=True), path)(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(read, axis=1), 1, rtol=1e-6)
    assert np.abs(read - reference.outputs(family, packed, TEXTS, CPU)).max() < 1e-2


@pytest.mark.parametrize("modes", [["max"], ["mean", "cls"], ["weightedmean"], ["mean_sqrt_len_tokens"]])
def test_pooling_that_llama_cpp_has_not_is_refused_for_gguf_alone(modes: list[str], tmp_path: Path) -> None:
    family = open_family(model(tmp_path / "model", {"pooling_mode": modes}, "Transformer", "Pooling"))
    with pytest.raises(InputError, match=r"expected mean, cls or lasttoken, .*; leave gguf out of export"):
        family.exports["gguf"].require()
    family.exports["onnx"].require()


@pytest.mark.parametrize("strip", [None, False, True])
def test_do_lower_case_lowers_texts_in_every_runtime(strip: bool | None, tmp_path: Path) -> None:
    directory = model(
        tmp_path / "model", flags("mean"), "Transformer", "Pooling", lowercase=False, strip_accents=strip
    )
    texts = ["Good É", "GOOD weather", "A b É"]
    lowered = [text.lower() for text in texts]
    tokenizer = AutoTokenizer.from_pretrained(directory)
    assert tokenizer(texts)["input_ids"] != tokenizer(lowered)["input_ids"]
    edit(directory / "sentence_bert_config.json", {"max_seq_length": 16, "do_lower_case": True})
    packed, family = small_packed(tmp_path / "packed", directory, grid=None)
    (batch,) = family.batches(texts, 8)
    (expected,) = open_family(directory).batches(lowered, 8)
    assert torch.equal(batch["input_ids"], expected["input_ids"])
    assert batch["input_ids"].tolist() == tokenizer(lowered, padding=True)["input_ids"]
    keys = spec_of(family).metadata
    assert keys["tokenizer.ggml.normalizer.lowercase"] is True
    assert keys["tokenizer.ggml.normalizer.strip_accents"] is bool(strip)
    (tmp_path / "gguf").mkdir()
    path = Gguf().write(packed, family, tmp_path / "gguf")
    assert LlamaCpp().tokens(path, texts) == tokenizer(lowered)["input_ids"]
    path = OnnxQdq().write(packed, family, tmp_path / "onnx")
    found = OnnxRuntime().outputs(path, texts, exact=True)
    np.testing.assert_allclose(found, reference.outputs(family, packed, texts, CPU), rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("file", "content", "said"),
    [
        ("modules.json", {}, "found a dict, expected a list"),
        ("modules.json", [3], "found the module 3, expected one with a type and a path"),
        ("modules.json", [], "found no module first, expected Transformer in the directory itself"),
        ("modules.json", [{"type": "x.Transformer", "path": "0_T"}], "found Transformer in '0_T' first"),
        ("modules.json", [{"type": "x.Transformer", "path": ""}], "found 0 modules of the type Pooling"),
        (
            "modules.json",
            [{"type": f"x.{kind}", "path": path} for kind, path in (("Transformer", ""), ("LSTM", "1_L"))],
            "found a module LSTM, expected",
        ),
        ("1_Pooling/config.json", {"pooling_mode": "median"}, "found pooling_mode 'median', expected cls or"),
        ("sentence_bert_config.json", {"max_seq_length": "x"}, "found max_seq_length 'x', expected a number"),
        ("sentence_bert_config.json", {"do_lower_case": "x"}, "found do_lower_case 'x', expected true or"),
        ("config_sentence_transformers.json", {"prompts": ["x"]}, "found prompts .*, expected an object of"),
        (
            "config_sentence_transformers.json",
            {"prompts": {"query": "q: "}, "default_prompt_name": "x"},
            "found default_prompt_name 'x', expected one of the prompts: query",
        ),
    ],
)
def test_what_is_not_known_is_a_sentence(file: str, content: object, said: str, tmp_path: Path) -> None:
    directory = small_bert(tmp_path / "model")
    edit(directory / file, content)
    with pytest.raises(InputError, match=rf"^{directory / file}: {said}"):
        open_family(directory)


def test_a_pooling_without_the_prompt_is_refused_where_there_is_one(tmp_path: Path) -> None:
    directory = small_bert(tmp_path / "model")
    edit(directory / "1_Pooling" / "config.json", {**flags("mean"), "include_prompt": False})
    prompts = {"prompts": {"query": "q: "}, "default_prompt_name": None}
    edit(directory / "config_sentence_transformers.json", prompts)
    open_family(directory)
    edit(directory / "config_sentence_transformers.json", {**prompts, "default_prompt_name": "query"})
    with pytest.raises(InputError, match="found include_prompt false beside the default prompt 'q: '"):
        open_family(directory)


def test_a_cross_encoder_has_no_pooling_to_compare(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Compare with one whose only module is the transformer, as version 5.4 and later save it."""
    base = model(tmp_path / "base", flags("mean"), "Transformer", "Pooling", "Normalize")
    expert = small_bert(tmp_path / "expert")
    modules(expert, "Transformer", package="sentence_transformers.base.modules.transformer")
    with pytest.raises(InputError, match="found 0 modules of the type Pooling, expected one"):
        open_family(expert)
    scores = {"model_type": "CrossEncoder", "prompts": {}, "default_prompt_name": None}
    edit(expert / "config_sentence_transformers.json", scores)
    edit(expert / "sentence_bert_config.json", {"transformer_task": "sequence-classification"})
    config = json.loads((expert / "config.json").read_text())
    edit(expert / "config.json", {**config, "sentence_transformers": {"version": "5.1.0"}})
    assert require_same_settings(base, expert, "it") == []
    assert require_same_settings(expert, base, "it") == []
    clients = {name: export.clients for name, export in open_family(expert).exports.items()}
    assert clients["safetensors"] == () and not caplog.records


def test_an_experts_modules_are_compared(tmp_path: Path) -> None:
    kinds = ("Transformer", "Pooling", "Normalize")
    base = model(tmp_path / "base", flags("mean"), *kinds)
    expert = model(tmp_path / "expert", {"pooling_mode": "mean"}, *kinds)
    assert require_same_settings(base, expert, "it") == []
    edit(base / "sentence_bert_config.json", {"max_seq_length": 16})
    assert require_same_settings(base, expert, "it") == []
    edit(expert / "sentence_bert_config.json", {"max_seq_length": 12})
    prompts = {"prompts": {"query": "q: "}, "default_prompt_name": "query"}
    edit(base / "config_sentence_transformers.json", {"prompts": {}, "default_prompt_name": None})
    edit(expert / "config_sentence_transformers.json", prompts)
    longest, prompt = require_same_settings(base, expert, "it")
    assert longest.startswith("it: sentence_bert_config.json has max_seq_length 12, the base's has 16: ")
    assert prompt.startswith("it: config_sentence_transformers.json has the default prompt 'q: ', the base's")
    modules(expert, "Transformer", "Pooling")
    with pytest.raises(
        InputError, match="the modules Transformer, Pooling, expected Transformer, Pooling, No"
    ):
        require_same_settings(base, expert, "it")
    modules(expert, *kinds)
    edit(expert / "1_Pooling" / "config.json", flags("cls"))
    with pytest.raises(InputError, match=r"expert: found the pooling cls, expected mean, as .*base has it"):
        require_same_settings(base, expert, "it")
