"""The model card."""

from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard

from epmq_export.publishing.card import model_card
from tests.publishing.reports import a_report

FOLDER = {
    "modules.json": [{"type": "sentence_transformers.models.Normalize"}],
    "1_Pooling/config.json": {"pooling_mode_cls_token": True},
    "sentence_bert_config.json": {"max_seq_length": 256},
    "tokenizer_config.json": {"model_max_length": 512},
    "config.json": {"max_position_embeddings": 512},
}


@pytest.fixture
def report(tmp_path: Path) -> dict[str, Any]:
    return a_report(tmp_path)


def test_the_front_matter_is_what_the_hub_reads(report: dict[str, Any]) -> None:
    card = ModelCard(model_card(report, FOLDER))
    data = card.data.to_dict()
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
        (each.dataset_name, each.metric_type, each.metric_value) for each in card.data.eval_results or []
    ]
    assert results == [("mood", "accuracy", 0.54), ("mood", "accuracy", 0.55)]


def test_it_says_what_the_report_says(report: dict[str, Any]) -> None:
    text = model_card(report, FOLDER)
    assert (
        "**Pass.**" in text
        and "| `support-merged-Q4_0.gguf` | llama.cpp 1.2 | pass | pass | pass | undecided |" in text
    )
    assert "| mood | 50.0 | 51.0 | 52.0 | 53.0 | 54.0 | 55.0 |" in text
    assert "| near\\|by | 90.0 |" in text and "| **average** | 70.0 (60.0 to 80.0) |" in text
    assert "jobs of 2 fine-tuned experts of [org/small]" in text


def test_only_clients_that_read_it_are_told(report: dict[str, Any]) -> None:
    text = model_card(report, FOLDER)
    assert "llama-server -hf USER/REPO --embeddings" in text
    assert 'pooling: "cls", normalize: true' in text and 'backend="onnx"' in text
    assert "sentence-transformers after 256, transformers.js after 512, llama.cpp after 512" in text
    report["files"] = report["files"][:1]
    text = model_card(report, {})
    assert "sentence-transformers" not in text and "transformers.js" not in text and "llama-server" in text


def test_a_failure_is_told_first(report: dict[str, Any]) -> None:
    report |= {
        "verdict": "fail",
        "broken": [f"{report['files'][0]['path']}: a code differs"],
        "tasks": [],
        "scores": {},
        "intervals": {},
    }
    report["files"][0]["checks"] = {
        "codes": {"equal": False},
        "metadata": None,
        "graph": None,
        "tasks": None,
    }
    report["files"][1]["checks"]["tasks"] = None
    text = model_card(report, {})
    assert (
        "**Fail.**" in text
        and "- support-merged-Q4_0.gguf: a code differs" in text
        and "| **fail** |" in text
    )
    assert "## Accuracy" not in text and "model-index" not in text


def test_a_model_of_no_hub_names_no_base(report: dict[str, Any]) -> None:
    report["about"] = {"name": "x", "pipeline_tag": "text-generation"}
    report["recipe"]["content"] = {"tasks": {"mood": {}}}
    data = ModelCard(model_card(report, {})).data.to_dict()
    assert "base_model" not in data and "base_model_relation" not in data and "license" not in data


def test_the_recipe_cannot_break_out_of_its_block(report: dict[str, Any]) -> None:
    report["recipe"]["content"] = {"tasks": {"mood": {"prompt": "```\n# Not a heading\n````"}}}
    text = model_card(report, {})
    assert text.count("`````yaml") == 1 and text.rstrip().endswith("`````")
