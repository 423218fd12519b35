"""Decoders that embed texts as both runtimes read them: tokens, pooling, padding and length."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import load_file
from transformers import AutoModel, AutoTokenizer

from converters import described_in, open_family, open_gguf, require_same_settings
from converters.decoder.kinds import KINDS
from epmq_export.errors import InputError
from epmq_export.models import reference
from epmq_export.tensors.checkpoint import open_checkpoint
from epmq_export.tensors.modules import pooling_option
from epmq_export.tensors.source import renamed
from epmq_export.verification.runtimes.llama_cpp.runtime import LlamaCpp, embeds
from epmq_export.verification.runtimes.onnxruntime.runtime import open_session
from formats.gguf.format import Gguf
from formats.gguf.spec import spec_of
from formats.onnx.format import OnnxQdq
from tests.tiny import decoder, embedder
from tests.tiny import tokenizers as tiny
from tests.tiny.checked_files import require_good_files
from tests.tiny.encoders import packed_encoder

CPU = torch.device("cpu")
TEXTS = ["the cat sat on the mat .", "a", "", "it is good , very good !"]


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return embedder.write(tmp_path_factory.mktemp("embedder") / "model")


@torch.no_grad()
def by_hand(directory: Path, side: str) -> tuple[dict[str, NDArray[np.int64]], NDArray[np.float32]]:
    """Return the library's tokens of the texts, padded on a side, and what its own model makes of them."""
    tokenizer = AutoTokenizer.from_pretrained(directory)
    tokens = tokenizer(TEXTS, padding=True, padding_side=side, return_tensors="pt")
    hidden = AutoModel.from_pretrained(directory).eval()(**tokens).last_hidden_state
    last = -1 if side == "left" else tokens["attention_mask"].sum(1) - 1
    rows = torch.nn.functional.normalize(hidden[torch.arange(len(TEXTS)), last], dim=1)
    return {name: value.numpy() for name, value in tokens.items()}, rows.numpy()


@pytest.mark.parametrize("kind", embedder.WRITERS)
def test_files_on_a_grid_pass_their_checks(kind: str, tmp_path: Path) -> None:
    """Texts of the checks are longer than Gemma's windows, and short ones stand beside them."""
    source = embedder.WRITERS[kind](tmp_path / "model")
    packed, family = packed_encoder(tmp_path / "packed", source, offset=KINDS[kind].offset)
    require_good_files(packed, family, tmp_path)


def test_texts_may_be_padded_on_either_side(directory: Path, tmp_path: Path) -> None:
    """sentence-transformers and transformers.js pad as the tokenizer says, which is before a text."""
    packed, family = packed_encoder(tmp_path / "packed", directory, grid=None)
    session = open_session(OnnxQdq().write(packed, family, tmp_path / "onnx"), exact=True)
    found = {}
    for side in ("left", "right"):
        tokens, expected = by_hand(directory, side)
        found[side] = session.run(["sentence_embedding"], tokens)[0]
        np.testing.assert_allclose(found[side], expected, rtol=0, atol=2e-6)
    np.testing.assert_allclose(found["left"], found["right"], rtol=0, atol=2e-6)
    np.testing.assert_allclose(
        reference.outputs(family, packed, TEXTS, CPU), found["left"], rtol=0, atol=2e-6
    )


@torch.no_grad()
def test_gemma_looks_both_ways_and_has_dense_modules(tmp_path: Path) -> None:
    """The library's own model makes the tokens, and the modules are multiplied by hand."""
    directory = embedder.write_gemma(tmp_path / "model")
    family = open_family(directory)
    model, tokenizer = AutoModel.from_pretrained(directory).eval(), AutoTokenizer.from_pretrained(directory)
    dense = [
        load_file(directory / place / "model.safetensors")["linear.weight"]
        for place in ("2_Dense", "3_Dense")
    ]
    texts = [*TEXTS, "the cat sat on the mat . " * 6]
    rows = []
    for text in texts:
        pooled = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        rows.append(torch.nn.functional.normalize(dense[1] @ (dense[0] @ pooled), dim=0))
    source = renamed(open_checkpoint(directory), family.canonical)
    found = reference.outputs(family, source, texts, CPU)
    np.testing.assert_allclose(found, torch.stack(rows).numpy(), rtol=0, atol=2e-6)


def test_gguf_has_gemmas_window_and_modules(tmp_path: Path) -> None:
    directory = embedder.write_gemma(tmp_path / "model")
    spec = spec_of(open_family(directory))
    sizes = {"dense_2_feat_in": 64, "dense_2_feat_out": 96, "dense_3_feat_in": 96, "dense_3_feat_out": 64}
    expected = {**sizes, "pooling_type": 1, "attention.sliding_window": 8}
    assert spec.architecture == "gemma-embedding"
    assert {key: spec.metadata[f"gemma-embedding.{key}"] for key in expected} == expected
    assert spec.names["2_Dense.linear.weight"] == "dense_2.weight"
    path = directory / "3_Dense" / "config.json"
    path.write_text(path.read_text().replace("linear.Identity", "activation.Tanh"))
    with pytest.raises(InputError, match="found the modules 2_Dense, 3_Dense, expected two Dense without"):
        open_family(directory).exports["gguf"].require()
    open_family(directory).exports["onnx"].require()


def test_a_causal_gemma_with_modules_is_a_sentence(tmp_path: Path) -> None:
    directory = embedder.write(tmp_path / "model", "gemma3", pooling="mean_tokens")
    with pytest.raises(InputError, match="found use_bidirectional_attention False, expected True"):
        open_family(directory)


def test_llama_cpp_gives_the_same_ids(tmp_path: Path) -> None:
    differing, left_out = tiny.compared(embedder.tokenizer(), tmp_path)
    assert not differing
    assert not left_out


def test_gguf_says_how_a_text_ends_and_is_pooled(directory: Path) -> None:
    metadata = spec_of(open_family(directory)).metadata
    known: Any = embedder.tokenizer().convert_tokens_to_ids
    assert metadata["qwen3.pooling_type"] == 3
    assert metadata["tokenizer.ggml.add_eos_token"] is True
    assert metadata["tokenizer.ggml.add_bos_token"] is False
    assert metadata["tokenizer.ggml.eos_token_id"] == known("<|endoftext|>")
    assert metadata["tokenizer.ggml.eot_token_id"] == known("<|im_end|>")
    assert "output.weight" not in spec_of(open_family(directory)).names.values()


def test_the_longest_text_runs_and_no_more_is_kept_for_it(tmp_path: Path) -> None:
    """The file has room for far more, for which llama.cpp would take the memory."""
    directory = embedder.write(tmp_path / "model", max_position_embeddings=1 << 30)
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": 1 << 30}))
    packed, family = packed_encoder(tmp_path / "packed", directory)
    (tmp_path / "gguf").mkdir()
    path = Gguf().write(packed, family, tmp_path / "gguf")
    text = family.truncate("a dog ran in the park . " * 2000)
    (batch,) = family.batches([text], 1)
    assert batch["input_ids"].shape == (1, 2048)
    assert LlamaCpp().outputs(path, [text]).shape == (1, decoder.WIDTH)


def test_a_file_says_that_it_embeds_and_is_no_language_model(directory: Path, tmp_path: Path) -> None:
    packed, family = packed_encoder(tmp_path / "packed", directory)
    (tmp_path / "gguf").mkdir()
    path = Gguf().write(packed, family, tmp_path / "gguf")
    assert embeds(path)
    content = path.read_bytes()
    begun = tmp_path / "begun.gguf"
    begun.write_bytes(content[: content.index(b"tokenizer.ggml.tokens") + 100])
    assert embeds(begun)  # What is behind the pooling takes seconds to read and is left alone.
    with pytest.raises(InputError, match=r"key qwen3\.pooling_type is 3, expected none"):
        open_gguf(str(path), path)
    # The config beside it tells what it is, and not one that is made of the file.
    assert described_in(path) is None
    language = open_family(decoder.write(tmp_path / "language", "qwen3"))
    assert "qwen3.pooling_type" not in spec_of(language).metadata


@pytest.mark.parametrize(
    ("side", "pooling", "more"),
    [("left", "lasttoken", True), ("right", "lasttoken", False), ("right", "mean_tokens", True)],
)
def test_clients_that_pool_by_themselves_pad_before_the_last_token(
    side: str, pooling: str, more: bool, tmp_path: Path
) -> None:
    directory = embedder.write(tmp_path / "model", pooling=pooling)
    settings = json.loads((directory / "tokenizer_config.json").read_text())
    (directory / "tokenizer_config.json").write_text(json.dumps({**settings, "padding_side": side}))
    clients = open_family(directory).exports["onnx"].clients
    assert "sentence-transformers" in clients and ("transformers.js" in clients) is more
    expected = "last_token" if pooling == "lasttoken" else "mean"
    assert pooling_option(json.loads((directory / "1_Pooling" / "config.json").read_text())) == expected


@pytest.mark.parametrize("mode", ["cls", "lasttoken", "mean"])
def test_the_new_key_of_a_pooling_is_read(mode: str) -> None:
    expected = "last_token" if mode == "lasttoken" else mode
    assert pooling_option({"pooling_mode": mode}) == pooling_option({"pooling_mode": [mode]}) == expected


def test_experts_are_compared_as_sentence_encoders(directory: Path, tmp_path: Path) -> None:
    expert = embedder.write(tmp_path / "expert", pooling="mean_tokens")
    with pytest.raises(InputError, match=r"expert: found the pooling mean, expected lasttoken, as .* has it"):
        require_same_settings(directory, expert, "it")
    assert require_same_settings(directory, embedder.write(tmp_path / "alike"), "it") == []


def test_a_decoder_with_modules_of_another_kind_is_a_sentence(tmp_path: Path) -> None:
    directory = embedder.write(tmp_path / "model", "llama")
    with pytest.raises(
        InputError, match=r"modules\.json: found modules of sentence-transformers, .*no llama"
    ):
        open_family(directory)
