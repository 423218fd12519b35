"""transformers.js on written folders. A stand-in that records what it is asked shows how it is called."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from epmq_export.errors import InputError, MissingRuntime
from epmq_export.verification.runtimes.transformers_js.runtime import TransformersJs
from tests.tiny import javascript
from tests.tiny.onnx_encoders import TEXTS, minilm, reference, rms

RUNTIME = TransformersJs()
needs_node = pytest.mark.skipif(shutil.which("node") is None, reason="Node is not on the PATH")
LIBRARY = """
const fs = require("fs"), path = require("path");
exports.env = {};
exports.pipeline = async (task, name, settings) => {
  const folder = path.join(exports.env.localModelPath, name);
  if (!fs.existsSync(path.join(folder, "onnx"))) throw new Error("no\\nmodels");
  return async (texts, options) => {
    fs.writeFileSync(path.join(__dirname, "told.json"), JSON.stringify(
      [task, folder, settings, options, texts.length, exports.env.allowRemoteModels]));
    return { data: texts.flatMap(text => [text.length, 0.5]) };
  };
};
"""


@pytest.fixture
def stand_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the folder of a stand-in for the library, which Node finds from the working directory on."""
    monkeypatch.chdir(tmp_path)
    return javascript.library(tmp_path, node=LIBRARY)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return javascript.folder(tmp_path / "out")


@needs_node
def test_it_is_called_as_a_user_calls_it(stand_in: Path, path: Path) -> None:
    assert RUNTIME.version().startswith("1.5.0 (node v") and "onnxruntime-node 1.6.0" in RUNTIME.version()
    texts = [f"{index}" * index for index in range(1, 36)]
    found = RUNTIME.outputs(path, texts)
    assert found.dtype == np.float32 and found.tolist() == [[len(text), 0.5] for text in texts]
    options = {"pooling": "cls", "normalize": True}
    expected = ["feature-extraction", str(path.parents[1]), {}, options, 3, False]
    assert json.loads((stand_in / "told.json").read_text()) == expected
    RUNTIME.outputs(path, ["exactly"], exact=True)
    settings = json.loads((stand_in / "told.json").read_text())[2]
    level = {"session": {"qdq_matmulnbits_accuracy_level": "0"}}
    assert settings == {"session_options": {"extra": level}}


@needs_node
def test_what_the_library_says_is_one_sentence(stand_in: Path, path: Path) -> None:
    path.parent.rename(path.parents[1] / "elsewhere")
    moved = path.parents[1] / "elsewhere" / path.name
    with pytest.raises(InputError, match=r"model_q4\.onnx: transformers\.js fails: no models$"):
        RUNTIME.outputs(moved, ["one"])


@needs_node
def test_a_folder_that_names_another_model_is_refused(stand_in: Path, path: Path) -> None:
    (path.parents[1] / "config.json").write_text(json.dumps({"transformers.js_config": {"dtype": "fp32"}}))
    with pytest.raises(InputError, match=r"has transformers\.js load .*model\.onnx, expected this model$"):
        RUNTIME.outputs(path, ["one"])


def test_what_is_absent_is_told_with_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NODE_PATH", raising=False)
    if shutil.which("node"):
        with pytest.raises(MissingRuntime, match=r"is not found by .*node.*npm install @huggingface"):
            RUNTIME.version()
    monkeypatch.setenv("PATH", str(tmp_path))
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    with pytest.raises(MissingRuntime, match=r"has no Node on the PATH: install Node"):
        RUNTIME.version()


def test_the_library_gives_what_pytorch_gives() -> None:
    try:
        RUNTIME.version()
    except MissingRuntime as error:
        pytest.skip(str(error))
    model = minilm()
    texts = tuple(map(model.family.truncate, TEXTS))  # It cuts texts elsewhere.
    expected = reference(model, texts)
    assert rms(RUNTIME.outputs(model.path, texts, exact=True), expected) < 3e-6
    assert rms(RUNTIME.outputs(model.path, texts), expected) < 4e-2
