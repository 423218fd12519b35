"""The study, its plots, the ways of rounding and the divergence of files, on small models."""

import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import RESULTS
from benchmarks.accuracy.laboratory import Laboratory
from benchmarks.accuracy.suites import LANGUAGE, TEXT
from benchmarks.study import __main__ as study
from benchmarks.study import divergence, figures, guard, held_out, plots, rounding
from benchmarks.study.axes import AXES, USUAL, planned
from epmq_export.grids import GRIDS
from epmq_export.models.heads import Head
from tests import ROOT
from tests.benchmarks.conftest import TASKS
from tests.benchmarks.stand_ins import text_task
from tests.tiny import decoder


@pytest.fixture
def small(laboratory: Laboratory, monkeypatch: pytest.MonkeyPatch) -> Laboratory:
    """The laboratory's base and experts in place of the packaged ones."""
    for module in (held_out, rounding):
        monkeypatch.setattr(module, "packaged_base", lambda: laboratory.base)
        monkeypatch.setattr(module, "TEXT", replace(TEXT, tasks=TASKS))
        monkeypatch.setattr(module, "HELD_OUT", 8)
    return laboratory


def test_rows_are_planned_once_and_the_usual_one_first() -> None:
    rows = list(planned(list(AXES)))
    assert rows[0] == USUAL
    assert all(row.keys() == USUAL.keys() for row in rows)
    assert all(rows.index(row) == i for i, row in enumerate(rows))


def test_the_committed_study_has_planned_rows_alone() -> None:
    content = json.loads((RESULTS / "study.json").read_text(encoding="utf-8"))
    rows = [row["what"] for row in content["rows"]]
    assert len(rows) == 40 and all(row in list(planned(list(AXES))) for row in rows)
    assert all(rows.index(row) == i for i, row in enumerate(rows))


def test_the_study_adds_rows_and_keeps_them(
    small: Laboratory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "study.json"
    arguments = ["--data", str(small.data), "--experts", str(small.experts), "--out", str(out)]
    monkeypatch.setitem(USUAL, "samples", 4)
    monkeypatch.setitem(AXES, "alpha", [{"alpha": 0.0}])
    study.main([*arguments, "--lines", "4", "--only", "alpha"])
    usual, other = json.loads(out.read_text())["rows"]
    assert usual["what"] == USUAL and other["what"] == {**USUAL, "alpha": 0.0}
    for row in (usual, other):
        assert set(row["by task"]) == set(TASKS)
        assert row["accuracy"] == pytest.approx(sum(row["by task"].values()) / 2)
        assert 0 < row["cosine"] <= 1 and row["divergence"] >= 0 and row["rho"] > 0
    assert len(capsys.readouterr().out.splitlines()) == 2
    monkeypatch.setattr(held_out.HeldOut, "row", None)  # calling it would raise
    study.main([*arguments, "--lines", "4", "--only", "alpha"])
    with pytest.raises(SystemExit, match="made with other numbers"):
        study.main([*arguments, "--lines", "3"])


def test_the_length_of_a_row_is_a_share_of_the_automatic_one(small: Laboratory) -> None:
    opened = held_out.HeldOut.open(small.data, small.experts, 4)
    one, half = (opened.row({**USUAL, "samples": 4, "length": share})["rho"] for share in (1.0, 0.5))
    assert half == pytest.approx(one / 2)


def test_experts_are_worth_all_that_they_change(small: Laboratory) -> None:
    opened = held_out.HeldOut.open(small.data, small.experts, 5)
    task = opened.tasks["kind"]
    found = opened.judge(task.expert, [task])
    assert found["gain"] == pytest.approx(1) and found["cosine"] == pytest.approx(1)
    assert found["divergence"] == pytest.approx(0, abs=1e-6)
    assert found["accuracy"] == found["experts"] == found["by task"]["kind"]
    assert opened.judge(opened.base, [task])["gain"] == pytest.approx(0)
    assert len(task.texts) == 12 and len(task.held) == 5


def test_curves_are_of_rows_that_differ_in_one_number() -> None:
    rows = json.loads((RESULTS / "study.json").read_text(encoding="utf-8"))["rows"]
    curve = plots.along(rows, "length", tasks=4)
    assert [x for x, _ in curve] == [0.25, 0.5, 1.0, 1.4, 2.0]
    for x, row in curve:
        assert row["what"] == {**USUAL, "tasks": 4, "length": x}
    drawn = plots.plots(rows)
    assert [plot.name for plot in drawn] == ["length", "alpha", "lambda", "samples"]
    assert all(len(points) > 2 for plot in drawn for _, points in plot.curves)
    names = [*(plot.name for plot in drawn), *figures.FIGURES]
    assert {f"{name}.svg" for name in names} == {path.name for path in plots.PLOTS.iterdir()}


def test_plots_are_drawn_to_the_same_bytes(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    one, two = tmp_path / "one", tmp_path / "two"
    plots.main(["--out", str(one)])
    assert {path.name for path in one.iterdir()} == {path.name for path in plots.PLOTS.iterdir()}
    rows = json.loads((RESULTS / "study.json").read_text(encoding="utf-8"))["rows"]
    plots.draw(plots.plots(rows)[1], two)
    figures.FIGURES["kept"](two)
    for path in two.iterdir():
        assert path.read_bytes() == (one / path.name).read_bytes()


def test_figures_have_the_numbers_of_the_tables() -> None:
    """Those that other code has written into README and counts.md."""
    shown = (ROOT / "README.md").read_text(encoding="utf-8").partition("| method | bits")[2]
    first = figures.kept()[figures.SUITES[0].name]
    for method in ("gptq", "epmq", "anchored", "anchored, refined, more texts"):
        line = next(line for line in shown.splitlines() if line.startswith(f"| `{method}`"))
        assert line.split(" | ")[-1] == f"{first[method]:.1f} |"
    for what, folder in (("texts", RESULTS), ("images", RESULTS / "image")):
        table = (folder / "counts.md").read_text(encoding="utf-8").splitlines()[-len(figures.COUNTS[what]) :]
        found = figures.by_count(what)
        for line, (count, merge), (_, ours) in zip(table, found["merge"], found["anchored"], strict=True):
            cells = line.strip("| ").split(" | ")
            assert (cells[0], cells[-2], cells[-1]) == (str(count), f"{merge:.1f}", f"{ours:.1f}")


def test_the_page_of_the_study_says_what_was_measured() -> None:
    page = " ".join((ROOT / "docs" / "study.md").read_text(encoding="utf-8").split())
    for suite in figures.SUITES:
        table = figures.Accuracy(suite.folder)
        ends = [table.score("", "", end) for end in ("base", "experts")]
        assert ", ".join(f"{end:.1f}" for end in ends) in page, suite.name
    for found in figures.trust().values():
        assert f"{figures.rank_correlation(*zip(*found, strict=True)):.2f}" in page
    lost = figures.lost()[figures.SUITES[3].name]
    assert f"`epmq` loses {lost['epmq']:.1f} points" in page and f"`anchored` {lost['anchored']:.1f}" in page
    assert set(re.findall(r"plots/(\w+)\.svg", page)) == {path.stem for path in plots.PLOTS.iterdir()}


def test_measures_of_a_guard_are_nothing_where_answers_are_the_expert_s() -> None:
    head = Head(torch.eye(2), bias=torch.zeros(2))
    expert = torch.tensor([[0.0, 2.0], [1.0, 0.0], [0.0, 0.0]])
    same = guard.measures(expert[:2] + 0.0, expert[:2], head)
    assert all(float(value.abs().max()) == pytest.approx(0, abs=1e-6) for value in same.values())
    other = guard.measures(torch.tensor([[3.0, 1.0], [9.0, 1.0]]), expert[:2], head)
    assert other["answers"].tolist() == [1.0, 0.0]
    sure = 1 / (1 + float(torch.exp(torch.tensor(-2.0))))
    assert other["regret"].tolist() == pytest.approx([sure - (1 - sure), 0.0])
    assert (other["divergence"] > 0).all() and (other["cosine"] > 0).all()


def guarded(accuracies: tuple[float, float], divergences: tuple[float, float]) -> guard.Row:
    """A row of one task whose other measures are equal."""
    entries = [
        {"accuracy": score, "expert": 0.9}
        | {name: dict.fromkeys(map(str, guard.TEXTS), 0.5) for name in guard.MEASURES}
        | {"divergence": dict.fromkeys(map(str, guard.TEXTS), value)}
        for score, value in zip(accuracies, divergences, strict=True)
    ]
    return {"tasks": ["kind"], "merged": {"kind": entries[0]}, "anchored": {"kind": entries[1]}}


def test_a_guard_ships_what_its_measure_prefers_and_is_judged_by_accuracy() -> None:
    rows = [guarded((0.8, 0.7), (0.1, 0.2)), guarded((0.6, 0.8), (0.1, 0.2))]
    lines = {line[0]: line[1:] for line in guard.guards(rows)}
    assert lines["always the merge"] == ["0 of 2", "1 of 2", "70.0", "-20.0"]
    assert lines["always `anchored`"] == ["2 of 2", "1 of 2", "75.0", "-10.0"]
    assert lines["divergence, 64 texts a task"] == lines["always the merge"]
    assert lines["regret, 64 texts a task"] == lines["always `anchored`"]  # where both are equal
    assert lines["by the labels themselves"] == ["1 of 2", "2 of 2", "80.0", "+10.0"]


def test_the_committed_guards_are_what_was_measured() -> None:
    content = json.loads((RESULTS / "guard.json").read_text(encoding="utf-8"))
    text = guard.text(content["about"], content["rows"])
    assert (RESULTS / "guard.md").read_text(encoding="utf-8") == text
    page = (ROOT / "docs" / "study.md").read_text(encoding="utf-8")
    for row in content["rows"]:
        for model in (guard.MERGED, guard.CALIBRATED):
            measured = [f"{guard.mean(row, model, name, 256):.3f}" for name in guard.MEASURES]
            score = f"{100 * guard.mean(row, model, 'accuracy'):.1f}"
            assert " | ".join([score, *measured]) in page


def test_guards_are_measured_for_each_set_of_tasks_once(
    small: Laboratory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(guard, "TEXTS", (2, 4))
    arguments = ["--data", str(small.data), "--experts", str(small.experts), "--out", str(tmp_path)]
    guard.main([*arguments, "--samples", "4", "--lines", "6"])
    (row,) = json.loads((tmp_path / "guard.json").read_text())["rows"]
    assert row["tasks"] == list(TASKS) and row["rho"] > 0
    for model in ("merged", "anchored"):
        assert set(row[model]) == set(TASKS)
        for entry in row[model].values():
            assert 0 <= entry["accuracy"] <= 1 and 0 <= entry["answers"]["4"] <= 1
            assert min(entry["divergence"]["2"], entry["cosine"]["4"], entry["regret"]["4"]) >= 0
    assert "kind + place" in (tmp_path / "guard.md").read_text()
    capsys.readouterr()
    monkeypatch.setattr(guard, "row", None)  # calling it would raise
    guard.main([*arguments, "--samples", "4", "--lines", "6"])
    assert capsys.readouterr().out == ""
    with pytest.raises(SystemExit, match="made with other settings"):
        guard.main([*arguments, "--samples", "3", "--lines", "6"])


def problem() -> rounding.Problem:
    """A small problem whose columns depend on each other."""
    generator = torch.Generator().manual_seed(0)
    weight = torch.randn(8, 64, generator=generator)
    inputs = torch.randn(200, 64, generator=generator).cumsum(1)
    hessian = (inputs.T @ inputs).double() / 200
    return weight, hessian + 0.1 * torch.eye(64, dtype=torch.float64)


def test_ways_of_rounding_are_on_the_grid_and_the_better_ones_lose_less() -> None:
    weight, hessian = problem()
    found = rounding.ways(weight, hessian)
    assert found["GPTQ"][0] == 1.0
    assert found["nearest"][0] > 1.0 > found["GPTQ, then descent"][0]
    assert found["act-order, then descent"][0] <= found["act-order"][0]
    k_best, finished = f"K-best ({rounding.BEAM}) under descent's scales", "K-best, then descent"
    assert found[finished][0] <= found[k_best][0]
    assert all(seconds >= 0 for _, seconds in found.values())


def test_a_search_of_many_prefixes_finds_the_best_codes(monkeypatch: pytest.MonkeyPatch) -> None:
    """With room for every prefix of two codes a weight, nothing beats it."""
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(2, 32, generator=generator)
    weight[:, 6:] = 0  # the columns that matter
    inputs = torch.randn(100, 32, generator=generator).cumsum(1)
    hessian = (inputs.T @ inputs).double() / 100 + 0.1 * torch.eye(32, dtype=torch.float64)
    start = rounding.nearest(weight, GRIDS["Q4_0"])

    def loss(packed: Any) -> float:
        error = packed.dequantise().double() - weight.double()
        return float(((error @ hessian) * error).sum())

    losses = []
    for width in (1, 4, 64):
        monkeypatch.setattr(rounding, "BEAM", width)
        losses.append(loss(rounding.beam(weight, hessian, start)))
    assert losses[0] >= losses[1] >= losses[2] and losses[2] < loss(start)


def test_rounding_measures_the_linears_of_its_layers(
    small: Laboratory, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(rounding, "LAYERS", ("encoder.layer.0.",))
    arguments = ["--data", str(small.data), "--experts", str(small.experts), "--out", str(tmp_path)]
    rounding.main(arguments)
    content = json.loads((tmp_path / "rounding.json").read_text())
    assert content["about"].startswith("6 linears of ")
    rows = {row["way"]: row["loss"] for row in content["rows"]}
    assert rows["GPTQ"] == [1.0, 1.0] and all(len(loss) == 2 for loss in rows.values())
    assert rows["GPTQ, then descent"][0] < 1.0
    assert (tmp_path / "rounding.md").read_text() in capsys.readouterr().out


def test_the_committed_tables_are_what_their_results_say() -> None:
    content = json.loads((RESULTS / "rounding.json").read_text(encoding="utf-8"))
    text = rounding.text(content["about"], content["rows"])
    assert (RESULTS / "rounding.md").read_text(encoding="utf-8") == text
    folder = RESULTS / LANGUAGE.results
    content = json.loads((folder / "divergence.json").read_text(encoding="utf-8"))
    text = divergence.text(content["about"], content["rows"])
    assert (folder / "divergence.md").read_text(encoding="utf-8") == text


@pytest.fixture(scope="module")
def language(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A small language model, two experts of it, and data for two tasks."""
    place = tmp_path_factory.mktemp("language")
    tasks = LANGUAGE.tasks[:2]
    decoder.write(place / "smollm2", "llama")
    for seed, task in enumerate(tasks, 1):
        decoder.write_expert(place / "experts" / task, place / "smollm2", "llama", seed)
    for task, labels in zip(tasks, (2, 4), strict=True):
        text_task(place / "data" / task, labels=tuple(f"label {i}" for i in range(labels)), train=20)
    return place


def test_the_divergence_of_files(language: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(divergence, "LANGUAGE", replace(LANGUAGE, shown=2))
    monkeypatch.setattr(divergence, "METHODS", (("rtn", "Q4_0"),))
    monkeypatch.setattr(divergence, "PEERS", ("llama.cpp Q4_0",))
    arguments = ["--data", str(language / "data"), "--experts", str(language / "experts")]
    arguments += ["--out", str(tmp_path), "--samples", "4"]
    threads = torch.get_num_threads()
    divergence.main([*arguments, "--lines", "3"])
    assert torch.get_num_threads() == 1
    torch.set_num_threads(threads)
    rows = json.loads((tmp_path / "divergence.json").read_text())["rows"]
    assert list(rows) == ["merged, full precision", "llama.cpp Q4_0", "rtn, Q4_0"]
    full = rows["merged, full precision"]
    assert full["merged"]["kl"] == pytest.approx(0, abs=1e-9) and full["merged"]["same_top"] == 1
    assert full["experts"]["kl"] > 0 and full["bits"] == 32
    for name in ("llama.cpp Q4_0", "rtn, Q4_0"):
        row = rows[name]
        assert row["bits"] == 4.5 and 0 < row["merged"]["kl"] <= row["merged"]["kl_99"]
        assert np.isfinite(row["perplexity"]) and row["perplexity"] > 1
    with pytest.raises(SystemExit, match="made with other settings"):
        divergence.main([*arguments, "--lines", "4"])
