"""The judge on a small model with experts of its own: every kind of row, and what an interrupted run keeps."""

import gzip
import json
from pathlib import Path

import accuracy
import pytest
import torch
from accuracy import Judge, Laboratory, Results
from safetensors.torch import save_file
from transformers import BertConfig, BertModel

from tests.small_bert import small_bert

TASKS = ("kind", "place")
ABOUT = {
    "settings": {"tasks": list(TASKS), "lines": 6, "samples": 8},
    "inputs": [{"path": "base", "sha256": "1"}],
    "versions": {"torch": "2"},
    "machine": "a machine",
}


@pytest.fixture(scope="module")
def laboratory(tmp_path_factory: pytest.TempPathFactory) -> Laboratory:
    place = tmp_path_factory.mktemp("laboratory")
    base = small_bert(place / "base")
    torch.manual_seed(0)
    weights = BertModel(BertConfig.from_pretrained(base)).state_dict()
    save_file(weights, base / "model.safetensors")
    for task in TASKS:
        expert = small_bert(place / "experts" / task)
        changed = {name: value + 0.05 * torch.randn(value.shape) if name.startswith("encoder") else value for name, value in weights.items()}
        save_file(changed, expert / "model.safetensors")
        data = place / "data" / task
        data.mkdir(parents=True)
        for name, lines in (("train", 20), ("test", 9)):
            text = "".join(f"{i % 2}\tthe {task} weather {'good' * (i % 3)} {name} {i}\n" for i in range(lines))
            (data / f"{name}.tsv.gz").write_bytes(gzip.compress(text.encode()))
        (data / "labels.json").write_text(json.dumps(["a_good", "the café"]))
    (place / "recipes").mkdir()
    return Laboratory(place / "recipes", base, place / "experts", place / "data", TASKS, 6, 8)


@pytest.fixture(scope="module")
def judged(laboratory: Laboratory, tmp_path_factory: pytest.TempPathFactory) -> Judge:
    """A judge that has measured one row of each kind."""
    experiment = laboratory.experiment("TA 1.0", "epmq")
    bench = accuracy.Bench.build(experiment.sources, experiment.tasks, accuracy.CPU)
    judge = Judge(laboratory, Results(tmp_path_factory.mktemp("results"), dict(ABOUT), restart=False), bench)
    judge.results.add("", "", "experts", bench.scores(bench.experts), {})
    judge.score("", "", "base", lambda texts: experiment.outputs(experiment.sources.base, texts), {})
    judge.merged("TA 1.0")
    judge.full("TA 1.0", "epmq")
    judge.packed("TA 1.0", "epmq", ["gguf", "onnx"])
    return judge


def stages(results: Results) -> list[str]:
    return [row["stage"] for row in json.loads(results.json.read_text())["rows"]]


def test_every_kind_of_row_is_saved(judged: Judge) -> None:
    assert stages(judged.results) == ["base", "experts", "merged", "full", "packed", "gguf", "onnx"]
    for row in judged.results.rows:
        assert row["scores"]["average"] == pytest.approx(sum(row["scores"][task] for task in TASKS) / 2)
    packed = next(row for row in judged.results.rows if row["stage"] == "packed")
    assert packed["seconds"] > 0 and packed["numbers"]["name"] == "epmq"


def test_a_full_row_has_no_rounding(judged: Judge, tmp_path: Path) -> None:
    experiment = judged.laboratory.experiment("TA 1.0", "epmq")
    full, _ = experiment.calibrate(tmp_path / "full", accuracy.FULL)
    assert full.grids == {}
    assert {full.tensor(name).dtype for name in full.names()} == {torch.float32}
    packed, _ = experiment.calibrate(tmp_path / "packed", accuracy.RecipeQuantization())
    assert {grid.name for grid in packed.grids.values()} == {"Q4_0"}


def test_a_method_that_reproduces_the_merge_has_no_full_row(judged: Judge) -> None:
    before = stages(judged.results)
    judged.full("TA 1.0", "gptq")
    assert stages(judged.results) == before


def test_finished_rows_are_not_measured_again(judged: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    results = Results(judged.results.json.parent, dict(ABOUT), restart=False)
    again = Judge(judged.laboratory, results, judged.bench)
    before = results.json.read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr(accuracy, "calibrate", None)  # calling it would raise
        again.packed("TA 1.0", "epmq", ["gguf", "onnx"])
        again.full("TA 1.0", "epmq")
    assert results.json.read_bytes() == before


def test_a_row_of_other_numbers_is_not_taken_for_this_one(judged: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(accuracy.PRESETS, "epmq", accuracy.PRESETS["epmq"].override(alpha=None, rho=None, damping=0.5))
    assert judged.results.find("TA 1.0", "epmq", "packed") is None


@pytest.mark.parametrize("key", ["settings", "inputs"])
def test_rows_of_another_run_are_refused(judged: Judge, key: str) -> None:
    folder = judged.results.json.parent
    with pytest.raises(SystemExit, match=f"its {key} are not those of this run"):
        Results(folder, {**ABOUT, key: "others"}, restart=False)
    assert Results(folder, {**ABOUT, key: "others"}, restart=True).rows == []


def test_the_table(tmp_path: Path) -> None:
    results = Results(tmp_path, dict(ABOUT), restart=False)
    rows = (("", "", "base", 0.5), ("", "", "experts", 0.9), ("TA 0.3", "", "merged", 0.6), ("TA 0.3", "epmq", "gguf", 0.8))
    for merge, method, stage, score in rows:
        results.add(merge, method, stage, {"kind": score, "place": score, "average": score}, {})
    text = results.markdown.read_text()
    assert "| merged | full | 60.0 |" in text
    assert "| epmq | Q4_0, llama.cpp | 80.0 |" in text
    assert "| TA 0.3 | epmq | Q4_0, llama.cpp | 80.0 | 80.0 | 80.0 | 75.0 |" in text
