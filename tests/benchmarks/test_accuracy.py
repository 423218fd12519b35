"""The judge on a small model with experts of its own: every kind of row, and what an interrupted run
keeps.
"""

import argparse
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import RESULTS
from benchmarks.accuracy import counts, rows
from benchmarks.accuracy import laboratory as laboratory_module
from benchmarks.accuracy.__main__ import main, whole_table
from benchmarks.accuracy.judge import LONG, Judge
from benchmarks.accuracy.laboratory import (
    CPU,
    METHODS,
    Laboratory,
    by_reference,
    calibrated,
    in_runtime,
)
from benchmarks.accuracy.rows import Results
from benchmarks.accuracy.suites import SUITES, TEXT
from benchmarks.peers import Merge, Quantised
from benchmarks.peers.peer import in_pytorch
from epmq_export.calibration.method import DEFAULT_METHOD
from epmq_export.pipeline.job import Job
from epmq_export.recipe.recipe import EFFORTS
from epmq_export.verification.tasks.bench import lines_of, scores_of
from epmq_export.verification.tasks.open import open_bench
from tests.benchmarks.conftest import TASKS
from tests.tiny.classifiers import classifier

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
    bench = open_bench(experiment.models, experiment.tasks, CPU)
    judge = Judge(laboratory, Results(tmp_path_factory.mktemp("results"), dict(ABOUT), restart=False), bench)
    judge.results.add("", "", "experts", scores_of(lines_of(bench, bench.experts)), {})
    judge.score("", "", "base", by_reference(experiment, experiment.models.base), {})
    judge.merged("TA 1.0")
    judge.full("TA 1.0", "epmq")
    judge.packed("TA 1.0", "epmq", reload=True)
    return judge


def stages(results: Results) -> list[str]:
    return [row["stage"] for row in json.loads(results.json.read_text())["rows"]]


def test_every_kind_of_row_is_saved(judged: Judge) -> None:
    assert stages(judged.results) == ["base", "experts", "merged", "full", "packed", "gguf", "onnx"]
    for row in judged.results.rows:
        assert row["scores"]["average"] == pytest.approx(sum(row["scores"][task] for task in TASKS) / 2)
    packed = next(row for row in judged.results.rows if row["stage"] == "packed")
    assert packed["seconds"] > 0 and packed["numbers"]["name"] == "epmq"
    assert (packed["grid"], packed["bits"], packed["note"]) == ("Q4_0", 4.5, None)


def test_classifiers_are_read_by_their_own_heads(laboratory: Laboratory, tmp_path: Path) -> None:
    """llama.cpp gives what heads beside the file read."""
    for seed, task in enumerate(TASKS):
        classifier(tmp_path / task, laboratory.base, ["a_good", "the café"], seed)
    own = replace(laboratory, folder=tmp_path, experts=tmp_path, suite=SUITES["classifiers"], merges={})
    experiment = own.experiment("TSV-M", "rtn")
    packed, _ = calibrated(experiment, tmp_path / "packed", "Q4_0")
    bench = open_bench(experiment.models, experiment.tasks, CPU)
    expected = bench.outputs(by_reference(experiment, packed))
    found = bench.outputs(in_runtime(packed, "gguf", tmp_path / "gguf"))
    for task in TASKS:
        assert found[task].shape == (6, 2)
        np.testing.assert_allclose(found[task], expected[task], atol=0.05)


def test_a_full_row_has_no_rounding(judged: Judge, tmp_path: Path) -> None:
    experiment = judged.laboratory.experiment("TA 1.0", "epmq")
    full, _ = calibrated(experiment, tmp_path / "full", None)
    assert full.grids == {}
    assert {full.tensor(name).dtype for name in full.names()} == {torch.float32}
    packed, _ = calibrated(experiment, tmp_path / "packed", "Q4_0")
    assert {grid.name for grid in packed.grids.values()} == {"Q4_0"}


def test_no_clock_counts_the_hashing_of_the_inputs(
    laboratory: Laboratory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    experiment = laboratory.experiment("TA 1.0", "epmq")
    events, hash_inputs, clock = [], Job.provenance, time.monotonic

    def provenance(job: Job) -> dict[str, Any]:
        events.append("hash")
        return hash_inputs(job)

    def monotonic() -> float:
        events.append("clock")
        return clock()

    monkeypatch.setattr(Job, "provenance", provenance)
    monkeypatch.setattr(laboratory_module.time, "monotonic", monotonic)
    packed, _ = calibrated(experiment, tmp_path / "packed", "Q4_0")
    assert events[:2] == ["hash", "clock"] and events.count("hash") == 1
    assert packed.index.inputs == experiment.provenance()["inputs"]


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
        again.packed("TA 1.0", "epmq", reload=True)
        again.full("TA 1.0", "epmq")
    assert results.json.read_bytes() == before


def test_a_row_of_other_numbers_is_not_taken_for_this_one(
    judged: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(
        rows.PRESETS, "epmq", rows.PRESETS["epmq"].override(alpha=None, rho=None, damping=0.5)
    )
    assert judged.results.find("TA 1.0", "epmq", "packed") is None


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_a_recipe(laboratory: Laboratory, method: str) -> None:
    calibration = laboratory.experiment("TA 1.0", method).recipe.calibration
    asked = METHODS[method]
    assert (calibration.method, calibration.samples) == (asked["method"], asked.get("samples", 8))
    assert (calibration.tune, calibration.refine) == (asked.get("tune", False), asked.get("refine", 0))
    assert (method in LONG) == (calibration.tune or bool(calibration.refine))


def test_the_best_effort_is_what_the_table_has() -> None:
    measured = {"method": DEFAULT_METHOD, **EFFORTS["best"]}
    assert METHODS[f"{DEFAULT_METHOD}, best effort"] == measured


def test_a_variant_is_measured_as_its_recipe_says_and_known_by_it(
    judged: Judge, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    name = "anchored, refined"
    monkeypatch.setitem(METHODS, name, {"method": "anchored", "refine": 2})
    judge = Judge(judged.laboratory, Results(tmp_path, dict(ABOUT), restart=False), judged.bench)
    judge.packed("TA 1.0", name, reload=False)
    judge.full("TA 1.0", name)  # refine trains what is on a grid: nothing to measure
    assert stages(judge.results) == ["packed"]
    row = judge.results.find("TA 1.0", name, "packed")
    assert row is not None and row["numbers"]["name"] == "anchored" and row["numbers"]["refine"] == 2
    assert "| anchored, refined | Q4_0, PyTorch |" in judge.results.markdown.read_text()
    monkeypatch.setitem(METHODS, name, {"method": "anchored", "refine": 3})
    assert judge.results.find("TA 1.0", name, "packed") is None


def test_a_grid_is_scored_in_the_runtimes_that_read_it(judged: Judge, tmp_path: Path) -> None:
    judge = Judge(judged.laboratory, Results(tmp_path, dict(ABOUT), restart=False), judged.bench)
    judge.packed("TA 1.0", "anchored", reload=True, grid="Q4_K")
    assert [(row["stage"], row["grid"], row["bits"]) for row in judge.results.rows] == [
        ("packed", "Q4_K", 4.5),
        ("gguf", "Q4_K", 4.5),
    ]
    note = judge.results.rows[0]["note"]
    assert note.startswith(
        "Q4_K gives way to IQ4_NL for rows of "
    )  # the small model's rows are narrower than 256
    assert judge.results.find("TA 1.0", "anchored", "packed") is None and judge.best() is None
    text = judge.results.markdown.read_text()
    packed, gguf = (f"{100 * row['scores']['average']:.1f}" for row in judge.results.rows)
    assert f"| TA 1.0 | Q4_K | 4.50 | {packed} | {gguf} |  |" in text
    assert text.count(f"anchored: {note}.") == 1


def test_the_usual_grid_stands_beside_others(tmp_path: Path) -> None:
    results = Results(tmp_path, dict(ABOUT), restart=False)
    fill(
        results, ("TA 0.3", "anchored", "packed", 0.8), ("TA 1.0", "anchored", "packed", 0.8)
    )  # rows that name no grid: Q4_0
    assert "## Grids" not in results.text()
    results.add("TA 0.3", "anchored", "onnx", same(0.9), {"grid": "Q8_0", "bits": 8.5})
    text = results.text()
    assert "| TA 0.3 | Q4_0 | 4.50 | 80.0 |  |  |\n| TA 0.3 | Q8_0 | 8.50 |  |  | 90.0 |" in text
    assert "| TA 0.3 | anchored | Q8_0, onnxruntime |" in text
    assert "| TA 1.0 | Q4_0 | 4.50" not in text  # it has no other
    assert "| anchored | Q4_0, onnxruntime |" not in text


@dataclass(frozen=True)
class Asked:
    """What `whole_table` asks of a judge, in its order."""

    calls: list[tuple[str, ...]]

    def merged(self, merge: str) -> None:
        self.calls.append(("merged", merge))

    def packed(self, merge: str, method: str, reload: bool, grid: str = "Q4_0") -> None:
        self.calls.append(("reloaded" if reload else "packed", merge, method, grid))

    def full(self, merge: str, method: str) -> None:
        self.calls.append(("full", merge, method))


@pytest.mark.parametrize("full", [True, False])
def test_what_is_long_is_measured_after_the_first_merge_alone(full: bool) -> None:
    given = argparse.Namespace(
        merges=["TA 1.0", "TA 0.3"],
        methods=["rtn", "anchored, tuned"],
        peers=[],
        peer_python=None,
        grids=["Q4_1"],
        grid_methods=["gptq", "anchored"],
        reload="chosen",
        full=full,
    )
    asked = Asked([])
    whole_table(asked, given)  # type: ignore[arg-type]
    unrounded = [("full", "TA 1.0", "rtn"), ("full", "TA 0.3", "rtn"), ("full", "TA 1.0", "anchored, tuned")]
    assert asked.calls == [
        ("merged", "TA 1.0"),
        ("merged", "TA 0.3"),
        ("packed", "TA 1.0", "rtn", "Q4_0"),
        ("packed", "TA 0.3", "rtn", "Q4_0"),
        ("reloaded", "TA 1.0", "anchored, tuned", "Q4_0"),
        ("reloaded", "TA 1.0", "gptq", "Q4_1"),
        ("reloaded", "TA 1.0", "anchored", "Q4_1"),
        *(unrounded if full else []),
    ]


@pytest.mark.parametrize("key", ["settings", "inputs", "versions", "machine"])
def test_rows_of_another_run_are_refused(judged: Judge, key: str) -> None:
    folder = judged.results.json.parent
    with pytest.raises(SystemExit, match=f"its {key} are not those of this run"):
        Results(folder, {**ABOUT, key: "others"}, restart=False)
    assert Results(folder, {**ABOUT, key: "others"}, restart=True).rows == []


def test_rows_of_other_numbers_are_dropped(tmp_path: Path) -> None:
    results = Results(tmp_path, dict(ABOUT), restart=False)
    fill(results, ("", "", "base", 0.5), ("TA 0.3", "epmq", "packed", 0.8))
    content = json.loads(results.json.read_text())
    content["rows"][1]["numbers"]["damping"] = 9.0
    results.json.write_text(json.dumps(content))
    assert [row["stage"] for row in Results(tmp_path, dict(ABOUT), restart=False).rows] == ["base"]


def test_runs_side_by_side_add_rows_to_one_table(tmp_path: Path) -> None:
    first, second = (Results(tmp_path, dict(ABOUT), restart=False) for _ in range(2))
    fill(first, ("", "", "base", 0.5))
    fill(second, ("TA 0.3", "gptq", "packed", 0.7))
    fill(first, ("TA 0.3", "", "merged", 0.8))
    stages = ["base", "merged", "packed"]
    assert [row["stage"] for row in Results(tmp_path, dict(ABOUT), restart=False).rows] == stages
    fill(replaced := Results(tmp_path, dict(ABOUT), restart=True), ("", "", "base", 0.4))
    assert replaced.rows == Results(tmp_path, dict(ABOUT), restart=False).rows and len(replaced.rows) == 1


def test_the_committed_rows_are_still_rows_of_this_table(judged: Judge, tmp_path: Path) -> None:
    """They are measured against the same packages and runtimes, and by the same numbers of each method: none
    has to be measured again.
    """
    committed = RESULTS / "accuracy.json"
    content = json.loads(committed.read_text(encoding="utf-8"))
    fresh = Judge.open(judged.laboratory, tmp_path / "fresh", restart=False)
    assert fresh.results.about["versions"].keys() == content["about"]["versions"].keys()
    (tmp_path / "accuracy.json").write_bytes(committed.read_bytes())
    assert Results(tmp_path, content["about"], restart=False).rows == content["rows"]


def test_the_table(tmp_path: Path) -> None:
    results = Results(tmp_path, dict(ABOUT), restart=False)
    fill(
        results,
        ("", "", "base", 0.5),
        ("", "", "experts", 0.9),
        ("TA 0.3", "", "merged", 0.6),
        ("TA 0.3", "epmq", "gguf", 0.8),
    )
    results.add(
        "TA 0.3",
        "llama.cpp Q4_K",
        "gguf",
        same(0.7),
        {"seconds": 1.0, "bits": 5.166, "note": "Q5_0 for some"},
    )
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


def test_a_peers_row_is_scored_once_and_tells_its_bits(
    judged: Judge, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(rows.PEERS, "halver", Halver())
    judged.peer("TA 1.0", Halver())
    row = judged.results.find("TA 1.0", "halver", "packed")
    assert row is not None and (row["bits"], row["note"], row["numbers"]) == (1.0, "it halves", {"bits": 1})
    before = judged.results.json.read_bytes()
    judged.peer("TA 1.0", Halver())
    assert judged.results.json.read_bytes() == before
    assert judged.best() == ("TA 1.0", "epmq")  # a peer is never ours


def test_a_peer_that_lacks_something_is_left_out_with_a_line(
    judged: Judge, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(rows.PEERS, "halver", Halver())
    judged.peer("TA 0.3", Halver("it needs a moon"))
    assert capsys.readouterr().out == "TA 0.3   halver: left out; it needs a moon\n"
    assert judged.results.score("TA 0.3", "halver", "packed") is None


def test_a_line_of_the_table_by_counts(tmp_path: Path) -> None:
    results = Results(tmp_path, dict(ABOUT), restart=False)
    fill(
        results,
        ("", "", "base", 0.5),
        ("", "", "experts", 0.9),
        ("TA 0.3", "", "merged", 0.6),
        ("TA 1.0", "", "merged", 0.7),
    )
    assert counts.best_merge(results, ("TA 0.3", "TA 1.0")) == "TA 1.0"
    fill(results, *(("TA 1.0", method, "packed", 0.6 + 0.1 * i) for i, method in enumerate(counts.METHODS)))
    line = counts.line(results, "TA 1.0")
    assert line == ["2", "50.0", "90.0", "TA 1.0", "70.0", "60.0", "70.0", "80.0", "90.0", "50.0", "100.0"]
    counts.write(tmp_path, results, [line])
    text = (tmp_path / "counts.md").read_text()
    assert "Tasks, in their order: kind, place." in text
    assert f"| {' | '.join(line)} |" in text


@pytest.fixture
def command(laboratory: Laboratory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Run the command on the small model in place of the text suite's; return the folder of its results."""
    suite = replace(TEXT, tasks=TASKS, shown=2, base=lambda experts: laboratory.base)
    monkeypatch.setitem(SUITES, "text", suite)

    def run(*arguments: str, experts: Path = laboratory.experts) -> Path:
        places = ["--data", str(laboratory.data), "--experts", str(experts), "--out", str(tmp_path)]
        sizes = ["--lines", "6", "--samples", "8", "--merges", "TA 1.0"]
        main([*places, *sizes, *arguments])
        return tmp_path

    return run


def test_the_command_measures_what_is_asked_and_goes_on(
    command: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = ("--peers", "--reload", "none", "--methods", "rtn")
    out = command(*asked)
    rows = [(row["method"], row["stage"]) for row in json.loads((out / "accuracy.json").read_text())["rows"]]
    assert rows == [("", "base"), ("", "experts"), ("", "merged"), ("rtn", "packed")]
    before = (out / "accuracy.json").read_bytes()
    monkeypatch.setattr(laboratory_module, "calibrate", None)  # calling it would raise
    command(*asked)
    assert (out / "accuracy.json").read_bytes() == before


def test_a_table_by_the_number_of_tasks(command: Callable[..., Path]) -> None:
    out = command("--counts", "2")
    rows = json.loads((out / "accuracy.json").read_text())["rows"]
    packed = [row["method"] for row in rows if row["stage"] == "packed"]
    assert packed == list(counts.METHODS)
    text = (out / "counts.md").read_text()
    assert "| 2 |" in text and "| TA 1.0 |" in text


def test_what_is_not_there_is_told_before_the_work(command: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(
        SystemExit, match=r"no experts for kind, place; train them .*\n +python -m benchmarks\."
    ):
        command(experts=tmp_path / "nowhere")
    with pytest.raises(SystemExit, match="--tasks: found trec, expected some of kind, place"):
        command("--tasks", "trec")
    with pytest.raises(SystemExit, match="no such file; give --data, the folder of the text tasks"):
        main(["--data", str(tmp_path)])
