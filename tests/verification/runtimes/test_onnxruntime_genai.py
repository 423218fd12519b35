"""onnxruntime-genai on written folders of decoder language models."""

import json
import shutil
from pathlib import Path

import pytest

from epmq_export.errors import InputError, MissingRuntime
from epmq_export.models import reference
from epmq_export.models.samples import Passage, Question
from epmq_export.verification.runtimes.onnxruntime.runtime import OnnxRuntime
from epmq_export.verification.runtimes.onnxruntime_genai import package
from epmq_export.verification.runtimes.onnxruntime_genai.runtime import CONFIG, OnnxRuntimeGenai
from tests.converters.test_decoder import CPU, SAMPLES
from tests.tiny.decoder_files import decoder_files
from tests.tiny.onnx_encoders import rms

RUNTIME = OnnxRuntimeGenai()


def needed() -> None:
    try:
        RUNTIME.version()
    except MissingRuntime as error:
        pytest.skip(str(error))


def test_its_tokenizer_ends_a_text_at_a_character_of_no_bits() -> None:
    """The graph check leaves such texts out as long as the library does that."""
    needed()
    files = decoder_files("llama, tied")
    whole, half = "the cat\0 sat", "the cat"
    assert not RUNTIME.reads(whole) and RUNTIME.reads(half)
    found = RUNTIME.outputs(files.onnx, [whole, half], exact=True)
    assert found[0].tolist() == found[1].tolist()


@pytest.mark.parametrize("kind", ["llama, tied", "gemma3"])
def test_the_library_gives_what_pytorch_gives(kind: str) -> None:
    needed()
    files = decoder_files(kind)
    expected = reference.outputs(files.family, files.packed, SAMPLES, CPU)
    assert rms(RUNTIME.outputs(files.onnx, SAMPLES, exact=True), expected) < 3e-5
    default = rms(RUNTIME.outputs(files.onnx, SAMPLES), expected)
    assert 1e-3 < default < 0.1  # By default inputs are rounded to 8 bits.
    asked = [Question(text, 6, tuple(files.family.ends)) for text in ("the cat sat", "what")]
    answers = OnnxRuntime().outputs(files.onnx, asked, exact=True)
    assert RUNTIME.outputs(files.onnx, asked, exact=True).tolist() == answers.tolist()


def test_what_goes_wrong_is_one_sentence(tmp_path: Path) -> None:
    needed()
    files = decoder_files("llama, tied")
    folder = Path(shutil.copytree(files.onnx.parents[1], tmp_path / "out"))
    path = folder / "onnx" / files.onnx.name
    with pytest.raises(InputError, match=r"onnxruntime-genai fails: \['', ''\] has no tokens"):
        RUNTIME.outputs(path, [Passage("", "")])
    with pytest.raises(InputError, match="no texts"):
        RUNTIME.outputs(path, [])
    path.write_bytes(b"no model")
    with pytest.raises(InputError, match=r"model_q4\.onnx: onnxruntime-genai fails: [^\n]+$"):
        RUNTIME.outputs(path, ["the cat"])
    config = json.loads((folder / CONFIG).read_text())
    config["model"]["decoder"]["filename"] = "onnx/another.onnx"
    (folder / CONFIG).write_text(json.dumps(config))
    with pytest.raises(InputError, match=r"has onnxruntime-genai load 'onnx/another\.onnx', expected this"):
        RUNTIME.outputs(path, ["the cat"])
    (folder / CONFIG).unlink()
    with pytest.raises(InputError, match=r"no genai_config\.json in .*out, which onnxruntime-genai loads"):
        RUNTIME.outputs(path, ["the cat"])


def test_an_environment_without_it_is_told_with_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text("#!/bin/sh\necho 'ImportError: none' >&2\nexit 1\n")
    python.chmod(0o755)
    monkeypatch.setenv(package.PYTHON, str(python))
    told = rf"^onnxruntime-genai is not found in {python} \(ImportError: none\): pip install onnx"
    with pytest.raises(MissingRuntime, match=told):
        RUNTIME.version()
