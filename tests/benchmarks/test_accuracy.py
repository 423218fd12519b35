"""The judge on a small model with experts of its own: every kind of row, and what an interrupted run keeps."""

import json
from dataclasses import dataclass
from pathlib import Path

import accuracy
import counts
import laboratory as laboratory_module
import pytest
import rows
import torch
from accuracy import Judge
from laboratory import Laboratory
from peers import Merge, Quantised
from peers.peer import in_pytorch
from rows import Results

from tests.benchmarks.conftest import TASKS

ABOUT = {
    "settings": {"tasks": list(TASKS), "lines": 6, "samples": 8},
    "inputs": [{"path": "base", "sha256": "1"}],
    "versions": {"torch": "2"},
    "machine": "a machine",
}


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
        patch.setattr(laboratory_module, "calibrate", None)  # calling it would raise
        again.packed("TA 1.0", "epmq", ["gguf", "onnx"])
        again.full("TA 1.0", "epmq")
    assert results.json.read_bytes() == before


def test_a_row_of_other_numbers_is_not_taken_for_this_one(judged: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rows.PRESETS, "epmq", rows.PRESETS["epmq"].override(alpha=None, rho=None, damping=0.5))
    assert judged.results.find("TA 1.0", "epmq", "packed") is None


@pytest.mark.parametrize("key", ["settings", "inputs"])
def test_rows_of_another_run_are_refused(judged: Judge, key: str) -> None:
    folder = judged.results.json.parent
    with pytest.raises(SystemExit, match=f"its {key} are not those of this run"):
        Results(folder, {**ABOUT, key: "others"}, restart=False)
    assert Results(folder, {**ABOUT, key: "others"}, restart=True).rows == []


def test_the_table(tmp_path: Path) -> None:
    results = Results(tmp_path, dict(ABOUT), restart=False)
    fill(results, ("", "", "base", 0.5), ("", "", "experts", 0.9), ("TA 0.3", "", "merged", 0.6), ("TA 0.3", "epmq", "gguf", 0.8))
    results.add("TA 0.3", "llama.cpp Q4_K", "gguf", same(0.7), {"seconds": 1.0, "bits": 5.166, "note": "Q5_0 for some"})
    text = results.markdown.read_text()
    assert "| merged | full | 60.0 |" in text
    assert "| epmq | Q4_0, llama.cpp | 80.0 |" in text
    assert "| TA 0.3 | epmq | Q4_0, llama.cpp | 80.0 | 80.0 | 80.0 | 75.0 |" in text
    assert "| llama.cpp Q4_K | 5.17 bits, llama.cpp | 70.0 |" in text
    assert "\n\nllama.cpp Q4_K: Q5_0 for some.\n\n" in text
    assert "| TA 0.3 | llama.cpp Q4_K | 5.17 bits, llama.cpp | 70.0 | 70.0 | 70.0 | 50.0 | 1.0 |" in text


def same(score: float) -> dict[str, float]:
    return {"kind": score, "place": score, "average": score}


def fill(results: Results, *rows: tuple[str, str, str, float]) -> None:
    for merge, method, stage, score in rows:
        results.add(merge, method, stage, same(score), {})


@dataclass(frozen=True)
class Halver:
    """A peer that takes half of every weight of the first linear."""

    lack: str | None = None
    name = "halver"
    stages = ("packed",)
    settings = {"bits": 1}  # noqa: RUF012

    def missing(self) -> str | None:
        return self.lack

    def quantise(self, merge: Merge, folder: Path) -> Quantised:
        assert [*folder.iterdir()] == []
        assert merge.packed.grids == {} and len(merge.texts) == 16
        name = "encoder.layer.0.attention.self.query.weight"
        return Quantised(1.0, {"packed": in_pytorch(merge, {name: merge.packed.load(name) / 2})}, "it halves")


def test_a_peers_row_is_scored_once_and_tells_its_bits(judged: Judge, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(rows.PEERS, "halver", Halver())
    judged.peer("TA 1.0", Halver())
    row = judged.results.find("TA 1.0", "halver", "packed")
    assert row is not None and (row["bits"], row["note"], row["numbers"]) == (1.0, "it halves", {"bits": 1})
    before = judged.results.json.read_bytes()
    judged.peer("TA 1.0", Halver())
    assert judged.results.json.read_bytes() == before
    assert judged.best() == ("TA 1.0", "epmq")  # a peer is never ours


def test_a_peer_that_lacks_something_is_left_out_with_a_line(judged: Judge, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setitem(rows.PEERS, "halver", Halver())
    judged.peer("TA 0.3", Halver("it needs a moon"))
    assert capsys.readouterr().out == "TA 0.3   halver: left out; it needs a moon\n"
    assert judged.results.score("TA 0.3", "halver", "packed") is None


def test_a_line_of_the_table_by_counts(tmp_path: Path) -> None:
    results = Results(tmp_path, dict(ABOUT), restart=False)
    fill(results, ("", "", "base", 0.5), ("", "", "experts", 0.9), ("TA 0.3", "", "merged", 0.6), ("TA 1.0", "", "merged", 0.7))
    assert counts.best_merge(results, ("TA 0.3", "TA 1.0")) == "TA 1.0"
    fill(results, *(("TA 1.0", method, "packed", 0.6 + 0.1 * i) for i, method in enumerate(counts.METHODS)))
    line = counts.line(results, "TA 1.0")
    assert line == ["2", "50.0", "90.0", "TA 1.0", "70.0", "60.0", "70.0", "80.0", "50.0", "75.0"]
    counts.write(tmp_path, results, [line])
    text = (tmp_path / "counts.md").read_text()
    assert "Tasks, in their order: kind, place." in text
    assert f"| {' | '.join(line)} |" in text
