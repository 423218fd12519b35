"""transformers.js on written folders. A stand-in that records what it is asked shows how it is called."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from epmq_export.errors import InputError, MissingRuntime
from epmq_export.models import reference as in_torch
from epmq_export.models.samples import Passage, Question
from epmq_export.verification.runtimes.onnxruntime.runtime import OnnxRuntime
from epmq_export.verification.runtimes.transformers_js.runtime import TransformersJs
from tests.converters.test_decoder import CPU, SAMPLES
from tests.tiny import javascript
from tests.tiny.decoder_files import decoder_files
from tests.tiny.onnx_encoders import FEW_TEXTS, minilm, reference, rms

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


# A model of which the scores behind a token are the token, and how many tokens are in the cache.
LANGUAGE = """
const fs = require("fs"), path = require("path");
const told = [];
exports.env = {};
class Tensor {
  constructor(type, data, dims) { Object.assign(this, { type, data, dims }); }
}
exports.Tensor = Tensor;
exports.DynamicCache = class { constructor(entries) { Object.assign(this, entries); } };
exports.AutoTokenizer = { from_pretrained: async name => ({
  encode: text => [7, ...text].map((letter, place) => place ? letter.charCodeAt(0) : letter),
}) };
exports.AutoModelForCausalLM = { from_pretrained: async (name, settings) => {
  const model = async ({ input_ids, attention_mask, past_key_values }) => {
    const past = past_key_values ? past_key_values["past_key_values.0.key"].dims[2] : 0;
    const ids = Array.from(input_ids.data, Number);
    if (attention_mask.dims[1] !== past + ids.length) throw new Error("wrong mask");
    told.push(ids.length);
    fs.writeFileSync(path.join(__dirname, "told.json"), JSON.stringify([name, settings, told]));
    return {
      logits: new Tensor("float32", Float32Array.from(ids.flatMap(id => [id, past])), [1, ids.length, 2]),
      "present.0.key": new Tensor("float32", new Float32Array(0), [1, 1, past + ids.length, 0]),
    };
  };
  model.generate = async options => {
    if (options.do_sample || options.max_new_tokens !== 3) throw new Error("not greedy");
    return new Tensor("int64", BigInt64Array.from([...options.input_ids.data, 5n, 6n]), []);
  };
  return model;
} };
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


@needs_node
def test_a_language_model_gives_a_row_for_each_scored_token(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    place = javascript.library(tmp_path, node=LANGUAGE)
    path = javascript.language_folder(tmp_path / "out")
    samples = ["abc", Passage("a", "bcd")]
    found = RUNTIME.outputs(path, samples)
    assert found.dtype == np.float32
    assert found.tolist() == [[ord("c"), 0], [ord("a"), 0], [ord("b"), 0], [ord("c"), 0]]
    assert json.loads((place / "told.json").read_text()) == ["out", {}, [4, 4]]
    found = RUNTIME.outputs(path, samples, exact=True)  # The last three tokens behind the cache.
    assert found.tolist() == [[ord("c"), 3], [ord("a"), 1], [ord("b"), 2], [ord("c"), 3]]
    _, settings, told = json.loads((place / "told.json").read_text())
    level = {"session": {"qdq_matmulnbits_accuracy_level": "0"}}
    assert settings == {"session_options": {"extra": level}} and told == [1, 1, 1, 1] * 2
    asked = [Question("ab", 3, (6,)), Question("c", 3, (5, 9)), Question("d", 3, (0,))]
    assert RUNTIME.outputs(path, asked).tolist() == [[5, 6, -1], [5, -1, -1], [5, 6, -1]]
    with pytest.raises(InputError, match="no texts"):
        RUNTIME.outputs(path, [])
    path.rename(path.with_name("model.onnx"))
    with pytest.raises(InputError, match=r"model\.onnx: .* load .*model_q4\.onnx, expected this model$"):
        RUNTIME.outputs(path.with_name("model.onnx"), samples)


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
    texts = tuple(map(model.family.truncate, FEW_TEXTS))  # It cuts texts elsewhere.
    expected = reference(model, texts)
    assert rms(RUNTIME.outputs(model.path, texts, exact=True), expected) < 3e-6
    assert rms(RUNTIME.outputs(model.path, texts), expected) < 4e-2


@pytest.mark.parametrize("kind", ["llama, tied", "gemma3"])
def test_the_library_gives_what_pytorch_gives_of_a_language_model(kind: str) -> None:
    try:
        RUNTIME.version()
    except MissingRuntime as error:
        pytest.skip(str(error))
    files = decoder_files(kind)
    expected = in_torch.outputs(files.family, files.packed, SAMPLES, CPU)
    assert rms(RUNTIME.outputs(files.onnx, SAMPLES, exact=True), expected) < 3e-5
    assert rms(RUNTIME.outputs(files.onnx, SAMPLES), expected) < 0.1
    asked = [Question("the cat sat", 6, tuple(files.family.ends))]
    answers = OnnxRuntime().outputs(files.onnx, asked, exact=True)
    assert RUNTIME.outputs(files.onnx, asked, exact=True).tolist() == answers.tolist()
