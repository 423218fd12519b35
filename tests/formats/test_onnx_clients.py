"""What clients are told in the files beside the models' folder: which model to load, the tokenizer as they
read it, and its chat templates. Verification expects all of it.
"""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
from tokenizers import Tokenizer

from converters import open_family
from formats.onnx.companions import files_beside
from formats.onnx.format import OnnxQdq
from tests.tiny import decoder, recipe_project
from tests.tiny.decoder_files import decoder_files
from tests.tiny.hard_corpus import hard_corpus
from tests.tiny.onnx_encoders import minilm
from tests.tiny.vit import vit

ONE, SEVERAL = "{{ messages }}", {"default": "{{ a }}", "rag": "{{ b }}", "tool_use": "{{ c }}"}
LISTED = [{"name": name, "template": text} for name, text in SEVERAL.items()]


def written(source: Path, ending: str = "_q4.onnx", apart: tuple[str, ...] = ()) -> dict[str, Any]:
    """Return the JSON files beside the models' folder, by name."""
    found = files_beside(source, open_family(source), ending, apart)
    return {name: json.loads(content) for name, content in found.items() if name.endswith(".json")}


def edit(path: Path, **changes: object) -> None:
    content = json.loads(path.read_text()) if path.exists() else {}
    content = {key: value for key, value in {**content, **changes}.items() if value is not None}
    path.write_text(json.dumps(content))


@pytest.fixture
def llama(tmp_path: Path) -> Path:
    return decoder.write(tmp_path / "model", "llama")


@pytest.fixture
def bert(tmp_path: Path) -> Path:
    return recipe_project.base(tmp_path / "model", width=32, layers=1)


def test_a_chat_template_in_a_file_of_its_own(llama: Path) -> None:
    (llama / "chat_template.jinja").write_text(ONE)
    assert written(llama)["tokenizer_config.json"]["chat_template"] == ONE


def test_several_chat_templates(llama: Path) -> None:
    edit(llama / "tokenizer_config.json", chat_template=LISTED)
    assert written(llama)["tokenizer_config.json"]["chat_template"] == LISTED


def test_several_chat_templates_in_files_of_their_own(llama: Path) -> None:
    (llama / "additional_chat_templates").mkdir()
    for name, text in SEVERAL.items():
        place = "chat_template.jinja" if name == "default" else f"additional_chat_templates/{name}.jinja"
        (llama / place).write_text(text)
    assert written(llama)["tokenizer_config.json"]["chat_template"] == LISTED
    assert "additional_chat_templates/rag.jinja" in files_beside(llama, open_family(llama), "_q4.onnx", ())


def test_no_chat_template(llama: Path) -> None:
    assert "chat_template" not in written(llama)["tokenizer_config.json"]


def test_a_tokenizer_of_lines_becomes_tokenizer_json(bert: Path) -> None:
    expected = Tokenizer.from_file(str(bert / "tokenizer.json"))
    (bert / "tokenizer.json").unlink()
    (bert / "vocab.txt").write_text("\n".join(recipe_project.VOCABULARY) + "\n")
    made = Tokenizer.from_str(json.dumps(written(bert)["tokenizer.json"]))
    texts = list(hard_corpus())
    assert [row.ids for row in made.encode_batch(texts)] == [row.ids for row in expected.encode_batch(texts)]


def test_a_tokenizer_without_settings_gets_some(bert: Path) -> None:
    (bert / "tokenizer_config.json").unlink()
    settings = written(bert)["tokenizer_config.json"]
    assert settings["tokenizer_class"].startswith("BertTokenizer") and settings["cls_token"] == "[CLS]"


@pytest.mark.parametrize("name", ["TokenizersBackend", "PreTrainedTokenizerFast", "LlamaTokenizerFast"])
def test_a_tokenizer_that_is_its_file_alone_has_a_class_that_says_so(llama: Path, name: str) -> None:
    edit(llama / "tokenizer_config.json", tokenizer_class=name, extra_special_tokens=["<s>"])
    settings = written(llama)["tokenizer_config.json"]
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
    assert settings["additional_special_tokens"] == ["<s>"] and "extra_special_tokens" not in settings


def test_settings_that_say_all_are_left_as_they_are(bert: Path) -> None:
    found = files_beside(bert, open_family(bert), "_q4.onnx", ())
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert found[name] == (bert / name).read_bytes()


@pytest.mark.parametrize(("ending", "kind"), [("_q4.onnx", "q4"), (".onnx", "fp32")])
def test_transformers_js_is_told_the_type(llama: Path, ending: str, kind: str) -> None:
    edit(llama / "config.json", **{"transformers.js_config": {"dtype": "fp16", "kv_cache_dtype": "float32"}})
    before = json.loads((llama / "config.json").read_text())
    told = {"transformers.js_config": {"dtype": kind, "kv_cache_dtype": "float32"}}
    assert written(llama, ending)["config.json"] == before | told


def test_transformers_js_is_told_of_weights_that_lie_apart(llama: Path) -> None:
    hints = written(llama, apart=("onnx/model_q4.onnx",))["config.json"]["transformers.js_config"]
    assert hints == {"dtype": "q4", "use_external_data_format": {"model_q4.onnx": 1}}


def test_sentence_transformers_is_told_the_file(bert: Path) -> None:
    assert "sentence_bert_config.json" not in written(bert)  # Without modules.json nobody reads it.
    kinds = {"Transformer": "", "Pooling": "1_Pooling"}
    modules = [{"type": f"sentence_transformers.models.{kind}", "path": path} for kind, path in kinds.items()]
    (bert / "modules.json").write_text(json.dumps(modules))
    told = {"model_args": {"file_name": "onnx/model_q4.onnx"}}
    assert written(bert)["sentence_bert_config.json"] == told
    edit(bert / "sentence_bert_config.json", max_seq_length=32, model_args={"provider": "x"})
    assert written(bert)["sentence_bert_config.json"] == {
        "max_seq_length": 32,
        "model_args": {"provider": "x", "file_name": "onnx/model_q4.onnx"},
    }


def test_a_family_of_pictures_needs_no_tokenizer(tmp_path: Path) -> None:
    found = written(vit(tmp_path / "model"))
    assert not [name for name in found if "token" in name]
    assert found["config.json"]["transformers.js_config"] == {"dtype": "q4"}


@pytest.mark.parametrize(
    ("file", "key"),
    [
        ("config.json", "transformers.js_config"),
        ("sentence_bert_config.json", "model_args"),
        ("tokenizer.json", "model"),
    ],
)
def test_verification_expects_it(file: str, key: str, tmp_path: Path) -> None:
    model = minilm()
    shutil.copytree(model.folder, tmp_path / "onnx")
    opened = OnnxQdq().open(OnnxQdq().find(tmp_path / "onnx", model.family), model.family)
    assert opened.differences(model.packed) == []
    edit(tmp_path / "onnx" / file, **{key: None})
    assert opened.differences(model.packed) == [f"{file} differs from the packed checkpoint's"]


def test_written_decoders_have_it() -> None:
    files = decoder_files("llama")
    folder = files.onnx.parent.parent
    assert json.loads((folder / "config.json").read_text())["transformers.js_config"] == {"dtype": "q4"}
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    assert settings["tokenizer_class"] == "PreTrainedTokenizerFast"
