"""BERT's kinds as files: RoBERTa, XLM-RoBERTa, CamemBERT, DistilBERT, MPNet, and BERT with a unigram
vocabulary.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import MPNetModel

from converters import naming, open_family, require_same_settings
from converters.shared.distances import DISTANCE
from epmq_export.errors import InputError
from epmq_export.models import reference
from epmq_export.models.samples import Pair
from epmq_export.tensors.checkpoint import open_checkpoint
from epmq_export.tensors.packed import Packed
from epmq_export.tensors.source import renamed
from epmq_export.verification.runtimes.llama_cpp.runtime import LlamaCpp
from epmq_export.verification.runtimes.onnxruntime.runtime import OnnxRuntime
from formats.gguf.format import Gguf
from formats.gguf.spec import spec_of
from formats.onnx.format import OnnxQdq
from tests.tiny.encoders import TOKENIZERS, encoder, packed_encoder

CPU = torch.device("cpu")
TEXTS = [
    "the cat sat on the mat .",
    "a",
    "it is good , very good !",
    "what is that ?",
    "\u00c9t\u00e9 \u00bd 3",
]
POSITIONS = "embeddings.position_embeddings.weight"
COUNTED = ("roberta", "xlm-roberta", "camembert")


@pytest.mark.parametrize("kind", TOKENIZERS)
def test_both_runtimes_compute_the_model(kind: str, tmp_path: Path) -> None:
    """Compare token ids and pooled outputs of files without a grid."""
    source = encoder(tmp_path / "model", kind, pooling="cls" if kind == "xlm-roberta" else "mean")
    packed, family = packed_encoder(tmp_path / "packed", source, grid=None)
    if kind != "mpnet":  # No runtime reads it as GGUF.
        (tmp_path / "gguf").mkdir()
        path, export = Gguf().write(packed, family, tmp_path / "gguf"), family.exports["gguf"]
        expected = [batch["input_ids"][0].tolist() for batch in family.batches(TEXTS, 1)]
        assert LlamaCpp().tokens(path, TEXTS) == expected
        found = LlamaCpp().outputs(path, TEXTS, exact=True)
        wanted = reference.outputs(export.computed(), packed, TEXTS, CPU)
        assert np.linalg.norm(found - wanted) < 1e-3 * np.linalg.norm(wanted)
    if kind in ("bert", "camembert"):  # Their graphs are MiniLM's and RoBERTa's.
        return
    onnx = OnnxQdq().write(packed, family, tmp_path / "onnx")
    outputs = OnnxRuntime().outputs(onnx, TEXTS, exact=True)
    np.testing.assert_allclose(outputs, reference.outputs(family, packed, TEXTS, CPU), rtol=0, atol=2e-6)


@pytest.mark.parametrize("kind", ["roberta", "distilbert"])
def test_a_letter_of_several_tokens_is_cut_whole(kind: str, tmp_path: Path) -> None:
    """Half of its bytes would be a token too many for whoever is given the text."""
    family: Any = open_family(encoder(tmp_path / "model", kind))
    for text in (f"{'a ' * count}\u65e5\u672c" for count in range(9, 18)):
        cut = family.truncate(f"{text} and more of it" * 3)
        assert len(family.tokenizer(cut)["input_ids"]) <= family.max_length
        pair = family.truncate(Pair(text * 3, f"{text}\u65e5" * 3))
        found = family.tokenizer([(pair.first, pair.second)])["input_ids"][0]
        assert len(found) <= family.max_length and family.truncate(pair) == pair


@pytest.mark.parametrize("kind", COUNTED)
def test_rows_of_positions_that_no_text_reads_are_not_in_gguf(kind: str, tmp_path: Path) -> None:
    packed, family = packed_encoder(tmp_path / "packed", encoder(tmp_path / "model", kind))
    (tmp_path / "gguf").mkdir()
    path = Gguf().write(packed, family, tmp_path / "gguf")
    written = Gguf().open(path, family)
    assert written.differences(packed) == []
    assert POSITIONS not in {entry.name for entry in written.tensors()}
    assert spec_of(family).metadata["bert.context_length"] == 32
    tensors = load_file(tmp_path / "packed" / "packed.safetensors")
    for row, said in ((1, []), (2, ["tensor position_embd.weight: its values are not those that"])):
        changed = tensors[POSITIONS].clone()
        changed[row] += 1
        save_file({**tensors, POSITIONS: changed}, tmp_path / "packed" / "packed.safetensors")
        found = written.differences(Packed(tmp_path / "packed"))
        assert [sentence[: len(each)] for sentence, each in zip(found, said, strict=True)] == said


@pytest.mark.parametrize(
    ("kind", "before"),
    [
        ("roberta", "roberta."),
        ("xlm-roberta", "roberta."),
        ("camembert", "roberta."),
        ("distilbert", "distilbert."),
        ("mpnet", "mpnet."),
    ],
)
def test_names_of_a_model_with_a_head_are_read(kind: str, before: str, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    stack = "transformer" if kind == "distilbert" else "encoder"
    plain = f"{stack}.layer.0.x.weight"
    names = naming(tmp_path)
    assert names.canonical(before + plain) == names.canonical(plain) == plain
    assert names.canonical(f"{before}embeddings.LayerNorm.bias") == "embeddings.LayerNorm.bias"
    assert names.canonical("classifier.dense.weight") is names.canonical(f"{before}pooler.dense.bias") is None


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text(encoding="utf-8")), **changes}), encoding="utf-8")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"pad_token_id": 2}, "found pad_token_id 2, expected 1, as the tokenizer has it"),
        ({"max_position_embeddings": 2}, "found max_position_embeddings 2, expected more than 2"),
        ({"hidden_act": "relu"}, "found hidden_act 'relu', expected 'gelu'"),
    ],
)
def test_a_config_that_the_family_does_not_compute_is_refused(
    changes: dict[str, Any], said: str, tmp_path: Path
) -> None:
    directory = encoder(tmp_path / "model", "roberta")
    edit(directory / "config.json", **changes)
    with pytest.raises(InputError, match=said):
        open_family(directory)


def test_an_expert_whose_positions_begin_elsewhere_is_refused(tmp_path: Path) -> None:
    for name, own in (("base", {}), ("expert", {"pad_token_id": 0})):
        (tmp_path / name).mkdir()
        config = {"model_type": "roberta", "hidden_size": 64, "num_attention_heads": 4}
        (tmp_path / name / "config.json").write_text(json.dumps({**config, **own}))
    with pytest.raises(
        InputError, match=r"expert/config.json: found pad_token_id 0 \(the base: 1\), expected"
    ):
        require_same_settings(tmp_path / "base", tmp_path / "expert", "it")
    for name in ("base", "expert"):
        edit(tmp_path / name / "config.json", model_type="bert")
    assert require_same_settings(tmp_path / "base", tmp_path / "expert", "it") == []


@pytest.mark.parametrize(("key", "value"), [("relative_attention_num_buckets", 16), ("pad_token_id", 0)])
def test_what_mpnets_code_takes_for_granted_is_asked_for(key: str, value: int, tmp_path: Path) -> None:
    directory = encoder(tmp_path / "model", "mpnet")
    edit(directory / "config.json", **{key: value})
    with pytest.raises(InputError, match=rf"found {key} {value}, expected \d+: family mpnet has no other"):
        open_family(directory)


@torch.no_grad()
def test_far_tokens_of_mpnet_share_a_row(tmp_path: Path) -> None:
    """Compare with transformers on a text that is longer than the distances which have rows of their own."""
    directory = encoder(tmp_path / "model", "mpnet", longest=300)
    family, text = open_family(directory), ["the cat sat on the mat . " * 40]
    source = renamed(open_checkpoint(directory), family.canonical)
    (batch,) = family.batches(text, 1)
    assert batch["input_ids"].shape[1] > 2 * DISTANCE
    expected = MPNetModel.from_pretrained(directory).eval()(**batch).last_hidden_state
    found = reference.outputs(family, source, text, CPU)
    np.testing.assert_allclose(found, family.output(expected, batch).numpy(), atol=2e-6)
