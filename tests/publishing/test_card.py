"""The model card."""

from typing import Any

import pytest
from huggingface_hub import ModelCard
from hypothesis import given, settings

from epmq_export.publishing.card import model_card
from epmq_export.publishing.report import report_of
from tests.publishing.page_reports import PLACE, judged, loss, report, reports

FOLDER = {
    "modules.json": [{"type": "sentence_transformers.models.Normalize"}],
    "1_Pooling/config.json": {"pooling_mode_cls_token": True},
    "sentence_bert_config.json": {"max_seq_length": 256},
    "tokenizer_config.json": {"model_max_length": 512},
    "config.json": {"max_position_embeddings": 512},
}
TASKS = {"mood": loss(), "near|by": loss(measure="cosine distance")}


def told() -> dict[str, Any]:
    """Return the report of a sentence encoder with a task that is judged by accuracy and one by cosines."""
    content = report(tuple(TASKS))
    content["about"] |= {
        "base_models": ["org/small"],
        "license": "apache-2.0",
        "languages": ["en"],
        "pipeline_tag": "sentence-similarity",
    }
    for file in content["files"]:
        file["checks"]["tasks"] = judged(TASKS, "undecided")
    return content


def card(content: dict[str, Any], folder: dict[str, Any]) -> str:
    return model_card(report_of(content, PLACE), folder)


def test_the_front_matter_is_what_the_hub_reads() -> None:
    found = ModelCard(card(told(), FOLDER))
    data = found.data.to_dict()
    assert {key: data[key] for key in ("base_model", "base_model_relation", "license", "language")} == {
        "base_model": ["org/small"],
        "base_model_relation": "merge",
        "license": "apache-2.0",
        "language": ["en"],
    }
    assert data["library_name"] == "sentence-transformers" and data["pipeline_tag"] == "sentence-similarity"
    assert data["tags"] == ["gguf", "onnx", "transformers.js", "merge", "epmq-export"]
    # The distance from a reference is no metric of the hub.
    results = [
        (each.dataset_name, each.metric_type, each.metric_value) for each in found.data.eval_results or []
    ]
    assert results == [("mood", "accuracy", 0.89), ("mood", "accuracy", 0.91)]


def test_it_says_what_the_report_says() -> None:
    text = card(told(), FOLDER)
    assert "**Pass.**" in text
    assert "| `model.gguf` | llama.cpp 1.2 | pass | pass | pass | undecided | 31.0 MB |" in text
    assert "| mood | 60.0 | 95.0 | 85.0 | 90.0 | 89.0 | 91.0 |" in text
    assert "| near\\|by | 60.0 |" in text and "| **average** | 60.0 (55.0 to 65.0) |" in text
    assert "jobs of 2 fine-tuned experts of [org/small]" in text


def test_only_clients_that_read_it_are_told() -> None:
    content = told()
    text = card(content, FOLDER)
    assert "llama-server -hf USER/REPO --embeddings" in text and "InferenceSession(" in text
    assert "not run on them: sentence-transformers and transformers.js." in text
    assert "pipeline(" not in text and "backend=" not in text
    for runtime in ("sentence-transformers", "onnxruntime-web"):
        ran = {**content["files"][1], "runtime": runtime}
        content["files"].append({**ran, "checks": {**ran["checks"], "tasks": None}})
    text = card(content, FOLDER)
    assert 'pooling: "cls", normalize: true' in text and 'backend="onnx"' in text
    assert "sentence-transformers after 256, transformers.js after 512, llama.cpp after 512" in text
    content["files"].append({**content["files"][2], "checks": told()["files"][0]["checks"] | {"tasks": None}})
    content["files"][-1]["checks"]["graph"]["passed"] = False
    text = card(content, FOLDER)  # It ran, and failed once.
    assert "not run on them" not in text and "backend=" not in text and "pipeline(" in text
    content["files"] = content["files"][:1]
    text = card(content, FOLDER)
    assert "sentence-transformers" not in text and "transformers.js" not in text and "llama-server" in text


def test_what_is_said_of_weights_is_what_was_found() -> None:
    content = told()
    assert "The weights in GGUF and ONNX are the same." in card(content, {})
    assert "with the experts' own outputs as targets" in card(content, {})
    apart = content | {"onnx": {key: content[key] for key in ("layers", "tensors", "notes")}}
    assert "its weights were calibrated apart" in card(apart, {})
    text = card(content | {"files": content["files"][:1], "method": {"name": "rtn", "target": "merged"}}, {})
    assert "The weights in" not in text and "with the merged model's own outputs as targets" in text
    content["files"][1]["checks"]["codes"]["equal"] = False
    assert "The weights in" not in card(content, {})


def test_a_failure_is_told_without_the_places_of_a_machine() -> None:
    content = report(())
    path = content["files"][0]["path"]
    content |= {"verdict": "fail", "broken": [f"{path}: a code differs"]}
    content["files"][0]["checks"]["codes"]["equal"] = False
    text = card(content, {})
    assert "**Fail.**" in text and "- gguf/model.gguf: a code differs" in text
    assert "| **fail** | pass | pass |  | 31.0 MB |" in text
    assert "## Accuracy" not in text and "model-index" not in text and "/home/" not in text


def test_a_file_that_did_not_run_has_failed() -> None:
    content = told()
    content["files"][0]["checks"]["tasks"] = {"rule": "point", "outcome": None, "passed": False}
    assert "| pass | pass | pass | **fail** | 31.0 MB |" in card(content, {})


@pytest.mark.parametrize("purpose", [None, "text-generation"])
def test_a_model_of_no_hub_names_no_base(purpose: str | None) -> None:
    content = report(("mood",))
    content["about"]["pipeline_tag"] = purpose
    data = ModelCard(card(content, {})).data.to_dict()
    assert "base_model" not in data and "base_model_relation" not in data and "license" not in data


def test_classifiers_are_told_with_their_classes() -> None:
    content = told()
    content["about"]["pipeline_tag"] = "text-classification"
    named = {"mood": ["bad", "gut ```"], "topic": ["cats"]}
    text = card(content, {**FOLDER, "classifiers.json": named})
    assert '{"mood": ["bad", "gut ```"]}\n{"topic": ["cats"]}\n````' in text
    for part in (
        "`logits_` with the task's name",
        "`classifiers.safetensors`",
        "run on them: transformers.js",
    ):
        assert part in text
    assert "as `logits`." in card(content, {"classifiers.json": {"mood": ["bad", "good"]}})
    assert "library_name" not in ModelCard(text).data.to_dict()
    assert "classifiers" not in card(told(), FOLDER)


def test_the_recipe_cannot_break_out_of_its_block() -> None:
    content = told()
    content["recipe"]["content"] = {"tasks": {"mood": {"prompt": "```\n# Not a heading\n````"}}}
    text = card(content, {})
    assert text.count("`````yaml") == 1 and text.rstrip().endswith("`````")


@given(reports())
@settings(max_examples=10)
def test_any_report_has_a_card(content: dict[str, Any]) -> None:
    found = ModelCard(card(content, {}))
    assert found.data.to_dict()["tags"][-1] == "epmq-export" and "## Recipe" in found.text
