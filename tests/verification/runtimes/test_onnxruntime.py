"""ONNX Runtime on written files: it computes what PyTorch does, and what is wrong ends in one sentence."""

import shutil
import sys
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import onnx
import pytest

from epmq_export.errors import InputError, MissingRuntime
from epmq_export.verification.runtimes.onnxruntime.runtime import OnnxRuntime, open_session
from formats.onnx.parts import PARTS
from tests.tiny.onnx_encoders import (
    FEW_TEXTS,
    TEXTS,
    Written,
    minilm,
    reference,
    rms,
    small,
    small_on,
    wide,
)

RUNTIME = OnnxRuntime()


@pytest.mark.parametrize(
    ("build", "texts"),
    [
        (small, TEXTS),
        *((build, FEW_TEXTS) for build in (minilm, wide)),
        *((partial(small_on, grid), FEW_TEXTS) for grid in PARTS),
    ],
)
def test_exact_is_pytorch_and_default_is_near(build: Callable[[], Written], texts: tuple[str, ...]) -> None:
    model = build()
    expected = reference(model, texts)
    assert rms(RUNTIME.outputs(model.path, texts, exact=True), expected) < 3e-6
    assert rms(RUNTIME.outputs(model.path, texts), expected) < 4e-2


def test_levels_differ_and_scales_are_of_both_signs() -> None:
    model = minilm()
    scales = next(
        tensor
        for tensor in onnx.load(model.path).graph.initializer
        if tensor.name.endswith("query.weight.scales")
    )
    values = onnx.numpy_helper.to_array(scales)
    assert (values < 0).any() and (values > 0).any()
    found = RUNTIME.outputs(model.path, TEXTS[:4])
    assert found.dtype == np.float32 and found.shape == (4, 384)
    assert rms(found, RUNTIME.outputs(model.path, TEXTS[:4], exact=True)) > 1e-3


@pytest.mark.parametrize("batch", [1, 2, 32])
@pytest.mark.parametrize("length", [1, 2, 65, 512])
def test_any_batch_and_length(batch: int, length: int) -> None:
    ids = np.random.default_rng(0).integers(5, 1000, (batch, length))
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
    hidden, output = open_session(small().path).run(["last_hidden_state", "sentence_embedding"], feed)
    assert hidden.shape == (batch, length, 128)
    np.testing.assert_allclose(hidden.mean(1), output, rtol=0, atol=1e-5)


def test_order_and_padding_do_not_matter() -> None:
    path = small().path
    together = RUNTIME.outputs(path, TEXTS, exact=True)
    np.testing.assert_allclose(
        RUNTIME.outputs(path, TEXTS[::-1], exact=True)[::-1], together, rtol=0, atol=1e-5
    )
    np.testing.assert_allclose(
        RUNTIME.outputs(path, TEXTS[2:3], exact=True)[0], together[2], rtol=0, atol=1e-5
    )


@pytest.fixture
def copy(tmp_path: Path) -> Written:
    model = small()
    shutil.copytree(model.folder, tmp_path / "model")
    return replace(model, path=tmp_path / "model" / "onnx" / "model_q4.onnx")


def test_cut_at_the_limit_beside_the_model(copy: Written) -> None:
    (copy.folder / "sentence_bert_config.json").write_text('{"max_seq_length": 8}', encoding="utf-8")
    long, short = RUNTIME.outputs(copy.path, ("the fox " * 9, "the fox the fox the fox"), exact=True)
    np.testing.assert_allclose(long, short, rtol=0, atol=1e-5)
    (copy.folder / "sentence_bert_config.json").write_text('{"max_seq_length": 9}', encoding="utf-8")
    long, short = RUNTIME.outputs(copy.path, ("the fox " * 9, "the fox the fox the fox"), exact=True)
    assert np.abs(long - short).max() > 1e-3


def test_changed_vocabulary_shows(copy: Written) -> None:
    before = RUNTIME.outputs(copy.path, TEXTS, exact=True)
    for path in (copy.folder / "vocab.txt", copy.folder / "tokenizer.json"):
        if path.exists():
            path.write_text(
                path.read_text(encoding="utf-8").replace("sentence", "sentense"), encoding="utf-8"
            )
    after = RUNTIME.outputs(copy.path, TEXTS, exact=True)
    assert rms(after[:3], before[:3]) < 1e-5
    assert rms(after[5:], before[5:]) > 1e-3


def test_model_file_beside_its_config(copy: Written) -> None:
    moved = copy.path.rename(copy.folder / "renamed.onnx")
    np.testing.assert_array_equal(RUNTIME.outputs(moved, TEXTS[:2]), RUNTIME.outputs(small().path, TEXTS[:2]))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("tokenizer_config.json", "{"),
        ("vocab.txt", None),
        ("sentence_bert_config.json", "[1]"),
        ("config.json", ""),
    ],
)
def test_bad_companion(copy: Written, name: str, content: str | None) -> None:
    if content is None:
        (copy.folder / name).unlink()
        (copy.folder / "tokenizer.json").unlink()
    else:
        (copy.folder / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match="its config and tokenizer cannot be used") as raised:
        RUNTIME.outputs(copy.path, TEXTS)
    assert str(copy.folder) in str(raised.value) and "\n" not in str(raised.value)


def test_no_config(tmp_path: Path) -> None:
    (tmp_path / "onnx").mkdir()
    alone = Path(shutil.copy(small().path, tmp_path / "onnx" / "model.onnx"))
    with pytest.raises(InputError, match=r"model\.onnx: no config\.json beside it"):
        RUNTIME.outputs(alone, TEXTS)


def test_token_beyond_the_table(copy: Written) -> None:
    (copy.folder / "tokenizer.json").unlink()
    words = (copy.folder / "vocab.txt").read_text(encoding="utf-8").replace(
        "sentence\n", "[unused2000]\n"
    ) + "sentence\n"
    (copy.folder / "vocab.txt").write_text(words, encoding="utf-8")
    with pytest.raises(InputError, match=r"model_q4\.onnx: ONNX Runtime fails on it"):
        RUNTIME.outputs(copy.path, TEXTS)


def test_other_interface(copy: Written) -> None:
    model = onnx.load(copy.path)
    del model.graph.output[1]
    onnx.save(model, copy.path)
    with pytest.raises(InputError, match=r"model_q4\.onnx: it has no output sentence_embedding"):
        RUNTIME.outputs(copy.path, TEXTS)


def test_version(monkeypatch: pytest.MonkeyPatch) -> None:
    assert RUNTIME.version().count(".") >= 2
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(MissingRuntime, match="pip install onnxruntime"):
        RUNTIME.version()
    with pytest.raises(MissingRuntime):
        RUNTIME.outputs(small().path, TEXTS)
