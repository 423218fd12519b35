"""`epmq.verify(A, against=B)`: any model is judged by another one, whatever wrote them."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import epmq_export
from epmq_export.errors import InputError, RecipeError
from epmq_export.verification.statistics.decision import Outcome
from formats.gguf.format import Gguf
from formats.onnx.format import OnnxQdq
from tests.tiny import decoder, vit
from tests.tiny.bert import small_bert, small_packed
from tests.tiny.built_once import built_once
from tests.tiny.decoder_files import pack
from tests.tiny.t5 import near, t5

LINES = [f"the weather is good {a} {b} !" for a in "abcdefg" for b in "hijklmn"]


@pytest.fixture(scope="module")
def models() -> Path:
    """Return a folder of small encoders: a packed checkpoint, its files, and what they are compared with."""

    def build(place: Path) -> None:
        packed, family = small_packed(place / "packed", small_bert(place / "model"))
        wrong = small_packed(place / "wrong", small_bert(place / "wrong-model", pooling="cls"))
        (place / "wrong-gguf").mkdir()
        (place / "wide-gguf").mkdir()
        for format in (Gguf(), OnnxQdq()):
            (place / format.name).mkdir()
            format.write(packed, family, place / format.name)
        Gguf().write(*wrong, place / "wrong-gguf")
        Gguf().write(
            *small_packed(place / "wide", small_bert(place / "wide-model", width=128)), place / "wide-gguf"
        )
        (place / "texts.txt").write_text("\n".join(LINES))

    return built_once("against", build)


@pytest.fixture
def compared(models: Path) -> Callable[..., epmq_export.Verdict]:
    def verify(model: str, other: str, **more: Path) -> epmq_export.Verdict:
        one, two = (
            next((models / name).rglob(f"*.{name.split('-')[-1]}"), models / name) for name in (model, other)
        )
        return epmq_export.verify(one, against=two, texts=models / "texts.txt", **more)

    return verify


def test_a_file_is_as_good_as_another_of_the_same_weights(
    compared: Callable[..., epmq_export.Verdict], tmp_path: Path
) -> None:
    verdict = compared("gguf", "onnx", report=tmp_path / "found.json")
    assert verdict.outcome is Outcome.PASS and verdict.against is not None
    told = json.loads((tmp_path / "found.json").read_text())
    assert told["format"] == "epmq-comparison-1" and told["verdict"] == "pass" and told["scores"] == {}
    assert (told["model"]["runtime"], told["against"]["runtime"]) == ("llama.cpp", "onnxruntime")
    task = told["tasks"]["by_task"]["texts"]
    assert task["lines"] == len(LINES) and 0 < task["loss"]["value"] < 0.02
    assert all(len(file["sha256"]) == 64 for side in ("model", "against") for file in told[side]["files"])


def test_a_packed_checkpoint_is_compared_in_pytorch(compared: Callable[..., epmq_export.Verdict]) -> None:
    verdict = compared("packed", "onnx")
    assert verdict.passed and verdict.files[0].runtime == "torch" and verdict.files[0].format == "packed"


def test_a_file_with_another_pooling_fails_and_two_files_need_no_config(
    compared: Callable[..., epmq_export.Verdict],
) -> None:
    verdict = compared("wrong-gguf", "gguf")
    (sentence,) = verdict.broken
    assert verdict.outcome is Outcome.FAIL
    assert "task texts: the cosine distance from the reference is" in sentence and "margin 0.02" in sentence


def test_two_models_of_other_widths_are_not_compared(compared: Callable[..., epmq_export.Verdict]) -> None:
    (sentence,) = compared("wide-gguf", "gguf").broken
    assert "gives 128 numbers for the text" in sentence and "the other model 64" in sentence


def test_a_decoder_is_compared_by_what_it_predicts(models: Path, tmp_path: Path) -> None:
    """The file tells its tokenizer itself, and needs nothing beside it."""
    directory = decoder.write(tmp_path / "model", "qwen2")
    packed, family = pack(directory, ("Q8_0",))
    (tmp_path / "gguf").mkdir()
    file = Gguf().write(packed, family, tmp_path / "gguf")
    texts = tmp_path / "texts.txt"
    texts.write_text("\n".join([*decoder.LINES, "what is that cat ?"]))
    alone = shutil.copy(file, tmp_path / "alone.gguf")
    verdict = epmq_export.verify(alone, against=directory, texts=texts)
    facts = verdict.files[0].checks["tasks"].facts["by_task"]["texts"]
    assert facts["measure"] == "KL divergence" and 0 < facts["loss"]["value"] < 0.5
    assert facts["facts"]["perplexity"] > 1 and 0.5 < facts["same_first"]["value"] <= 1
    same = epmq_export.verify(directory, against=directory, texts=texts)
    assert same.files[0].checks["tasks"].facts["by_task"]["texts"]["loss"]["value"] == 0


def test_a_model_of_two_halves_predicts_the_answers_of_the_other(tmp_path: Path) -> None:
    directory = t5(tmp_path / "model", "1.1", depths=(1, 1))
    near(tmp_path / "other", directory, 1)
    (tmp_path / "texts.txt").write_text("is it good ?\nis it bad ?\n")
    verdict = epmq_export.verify(tmp_path / "other", against=directory, texts=tmp_path / "texts.txt")
    facts = verdict.files[0].checks["tasks"].facts["by_task"]["texts"]
    assert facts["measure"] == "KL divergence" and facts["loss"]["value"] > 0


def test_what_is_compared_is_said(models: Path, tmp_path: Path) -> None:
    texts, model = models / "texts.txt", models / "packed"
    with pytest.raises(RecipeError, match="--texts: found it without --against"):
        epmq_export.verify(model, texts=texts)
    with pytest.raises(RecipeError, match="--against: found neither, expected --texts or --recipe"):
        epmq_export.verify(model, against=model)
    with pytest.raises(RecipeError, match="--against: found both"):
        epmq_export.verify(model, against=model, texts=texts, recipe=texts)
    with pytest.raises(InputError, match="no such file or directory"):
        epmq_export.verify(model, against=models / "nothing", texts=texts)
    with pytest.raises(InputError, match=r"found several models of a run, expected one of .*packed"):
        epmq_export.verify(model, against=models, texts=texts)
    with pytest.raises(InputError, match=r"texts\.txt: expected a \.gguf or an \.onnx file"):
        epmq_export.verify(model, against=texts, texts=texts)
    other = decoder.write(tmp_path / "llama", "llama")
    with pytest.raises(InputError, match=r"found a llama, expected a bert as .*: two files of one model"):
        epmq_export.verify(other, against=model, texts=texts)
    pictures = vit.vit(tmp_path / "vit")
    with pytest.raises(InputError, match=r"found a vit, which reads images, expected a model of texts"):
        epmq_export.verify(pictures, against=pictures, texts=texts)
