"""onnxruntime-genai runs the written folder as it stands."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from converters import open_family
from epmq_export.models.samples import Question
from epmq_export.verification.checks import check_metadata
from epmq_export.verification.runtimes.onnxruntime.runtime import OnnxRuntime
from formats.onnx.format import OnnxQdq
from formats.onnx.spec import specs_of
from tests.tiny import decoder as tiny_decoder
from tests.tiny import t5 as tiny_t5
from tests.tiny.decoder_files import decoder_files

TEXTS = ("the cat sat", "it is good ,", "what")
TOKENS = 8


# The others differ in what the graph computes, not in what a runtime is told.
@pytest.mark.parametrize("kind", ["llama, tied", "gemma3"])
def test_it_goes_on_as_onnxruntime_does(kind: str) -> None:
    genai = pytest.importorskip("onnxruntime_genai")
    files = decoder_files(kind)
    family = files.family
    model = genai.Model(str(files.onnx.parents[1]))
    tokenizer = genai.Tokenizer(model)
    asked = [Question(text, TOKENS, tuple(family.ends)) for text in TEXTS]
    expected = OnnxRuntime().outputs(files.onnx, asked)
    for text, ids in zip(TEXTS, expected.astype(int).tolist(), strict=True):
        given = [int(token) for token in tokenizer.encode(text)]
        assert given == family.tokenizer(text)["input_ids"]
        parameters = genai.GeneratorParams(model)
        parameters.set_search_options(max_length=len(given) + TOKENS)
        generator = genai.Generator(model, parameters)
        generator.append_tokens(given)
        while not generator.is_done():
            generator.generate_next_token()
        # It may leave out the token that ends a text.
        found = [int(token) for token in generator.get_sequence(0)[len(given) :]]
        assert found in (
            ids,
            [token for token in ids if token >= 0],
            [token for token in ids if token >= 0 and token not in family.ends],
        )


def test_it_ends_as_answers_do(tmp_path: Path) -> None:
    folder = tiny_decoder.write(tmp_path / "model", "qwen3")
    for ends, expected in ((None, 0), ([], 0), (5, [0, 5]), ([7, 5], [0, 5, 7])):
        family = open_family(tiny_t5.configured(folder, eos_token_id=ends, pad_token_id=None))
        config: Any = specs_of(family)["model"].beside("model.onnx")["genai_config.json"]
        tokens = config["model"]
        assert (tokens["eos_token_id"], tokens["pad_token_id"]) == (expected, 0)


def test_a_changed_config_is_told(tmp_path: Path) -> None:
    files = decoder_files("qwen3")
    held, family = files.packed, files.family
    folder = Path(shutil.copytree(files.onnx.parents[1], tmp_path / "out"))
    path = OnnxQdq().find(folder, family)
    config = json.loads((folder / "genai_config.json").read_text(encoding="utf-8"))
    assert (
        config["model"]["type"] == "qwen3" and config["model"]["decoder"]["filename"] == "onnx/model_q4.onnx"
    )
    assert config["model"]["decoder"]["head_size"] == 32 and config["search"]["max_length"] == 512
    assert not check_metadata(OnnxQdq().open(path, family), held).broken
    config["model"]["decoder"]["num_hidden_layers"] = 3
    (folder / "genai_config.json").write_text(json.dumps(config), encoding="utf-8")
    assert check_metadata(OnnxQdq().open(path, family), held).broken == [
        f"{path}: genai_config.json differs from the packed checkpoint's"
    ]
    (folder / "genai_config.json").unlink()
    assert check_metadata(OnnxQdq().open(path, family), held).broken == [
        f"{path}: genai_config.json is missing"
    ]
