"""sentence-transformers on written folders. Where it is not installed with ONNX, a stand-in that records what
it is asked shows how it is called.
"""

import json
import sys
from pathlib import Path

import numpy as np
import pytest

from epmq_export.errors import InputError, MissingRuntime
from epmq_export.models.samples import Picture
from epmq_export.verification.runtimes.sentence_transformers import package
from epmq_export.verification.runtimes.sentence_transformers.runtime import SentenceTransformers
from formats.safetensors.format import Safetensors
from tests.tiny.onnx_encoders import FEW_TEXTS, minilm, reference, rms

RUNTIME = SentenceTransformers()
# What the stand-in has: the modules that the worker imports, and the metadata that tell versions.
LIBRARY = """
import json, pathlib
import numpy

class SentenceTransformer:
    def __init__(self, folder, **options):
        found = pathlib.Path(folder, "onnx", "model_q4.onnx")
        if not found.is_file():
            raise OSError("no model\\nin the folder")
        self.told = [folder, options["device"], options["backend"], options["model_kwargs"]["provider"]]
        self.auto_model = type("Model", (), {"path": found})

    def __getitem__(self, index):
        return self

    def encode(self, texts, **options):
        pathlib.Path(__file__).with_name("told.json").write_text(json.dumps([*self.told, options["prompt"]]))
        return numpy.array([[len(text), 0.5] for text in texts], numpy.float64)
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a stand-in for the library, which an interpreter of its own finds."""
    place = tmp_path / "library"
    (place / "optimum").mkdir(parents=True)
    (place / "optimum" / "onnxruntime.py").write_text("ORTModelForFeatureExtraction = None")
    (place / "sentence_transformers.py").write_text(LIBRARY)
    for name in ("sentence_transformers", "optimum"):
        (place / f"{name}-1.5.dist-info").mkdir()
        text = f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.5\n"
        (place / f"{name}-1.5.dist-info" / "METADATA").write_text(text)
    interpreter = tmp_path / "python"
    # It takes -E, which would hide the stand-in, away.
    interpreter.write_text(f'#!/bin/sh\nshift\nPYTHONPATH="{place}" exec "{sys.executable}" "$@"\n')
    interpreter.chmod(0o755)
    monkeypatch.setenv(package.PYTHON, str(interpreter))
    return place


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "out" / "onnx").mkdir(parents=True)
    (tmp_path / "out" / "config.json").write_text("{}")
    (tmp_path / "out" / "onnx" / "model_q4.onnx").write_bytes(b"")
    return tmp_path / "out"


def test_it_is_called_as_a_user_calls_it(stand_in: Path, folder: Path) -> None:
    assert RUNTIME.version().startswith("1.5 (transformers ")
    found = RUNTIME.outputs(folder / "onnx" / "model_q4.onnx", ["one", "twice"])
    assert found.dtype == np.float32 and found.tolist() == [[3, 0.5], [5, 0.5]]
    told = json.loads((stand_in / "told.json").read_text())
    assert told == [str(folder), "cpu", "onnx", "CPUExecutionProvider", ""]


def test_what_the_library_says_is_one_sentence(stand_in: Path, folder: Path) -> None:
    other = folder / "onnx" / "model.onnx"
    other.write_bytes(b"")
    with pytest.raises(InputError, match=r"model\.onnx: sentence-transformers fails: it loads .*model_q4"):
        RUNTIME.outputs(other, ["one"])
    (folder / "onnx" / "model_q4.onnx").unlink()
    with pytest.raises(InputError, match=r"fails: no model in the folder$"):
        RUNTIME.outputs(other, ["one"])


def test_samples_that_are_no_texts_and_files_that_are_none(stand_in: Path, folder: Path) -> None:
    path = folder / "onnx" / "model_q4.onnx"
    with pytest.raises(InputError, match="found pictures, expected texts"):
        RUNTIME.outputs(path, [Picture("a picture", "0", lambda: np.zeros((1, 1, 3), np.uint8))])
    with pytest.raises(InputError, match="no texts"):
        RUNTIME.outputs(path, [])
    with pytest.raises(InputError, match="no such file"):
        RUNTIME.outputs(folder / "onnx" / "none.onnx", ["one"])
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"no config\.json beside it"):
        RUNTIME.outputs(path, ["one"])


@pytest.mark.parametrize("content", [None, "#!/bin/sh\necho 'ImportError: old' >&2\nexit 1\n"])
def test_an_environment_without_it_is_told_with_what_to_install(
    content: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    if content is not None:
        python.write_text(content)
        python.chmod(0o755)
    monkeypatch.setenv(package.PYTHON, str(python))
    told = rf"^sentence-transformers .* in {python} \(.*\): pip install 'sentence-transformers\[onnx\]==5.7"
    with pytest.raises(MissingRuntime, match=told):
        RUNTIME.version()


def test_the_library_gives_what_pytorch_gives(tmp_path: Path) -> None:
    try:
        RUNTIME.version()
    except MissingRuntime as error:
        pytest.skip(str(error))
    model = minilm()
    expected = reference(model, FEW_TEXTS)
    assert rms(RUNTIME.outputs(model.path, FEW_TEXTS, exact=True), expected) < 3e-6
    assert rms(RUNTIME.outputs(model.path, FEW_TEXTS), expected) < 4e-2
    weights = Safetensors().write(model.packed, model.family, tmp_path)
    assert rms(RUNTIME.outputs(weights, FEW_TEXTS), expected) < 3e-6
