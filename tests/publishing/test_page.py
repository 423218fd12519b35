"""The page of a run: whole HTML of any report, no word of which is taken for markup, the same each time."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema  # type: ignore[import-untyped]
import matplotlib
import pytest
from hypothesis import Phase, given, settings

from epmq_export.errors import InputError, OutputError
from epmq_export.pipeline.compare import compare
from epmq_export.publishing.page import Comparison, page_of, write_comparison, write_page
from epmq_export.publishing.plots.accuracy import place_of
from epmq_export.publishing.report import report_of
from epmq_export.verification.report import SCHEMA
from tests.publishing.html_page import Page
from tests.publishing.page_reports import PLACE, judged, layer, loss, report, reports, with_unrounded


def made(content: dict[str, Any]) -> str:
    return page_of(report_of(content, PLACE))


def test_the_reports_of_these_tests_are_such_as_runs_write() -> None:
    schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
    for tasks in ((), ("mood",), ("mood", "topic")):
        jsonschema.validate(report(tasks), schema)
    jsonschema.validate(with_unrounded(report()), schema)


@given(reports())
@settings(max_examples=5, phases=[Phase.generate])
def test_random_reports_are_such_as_runs_write(content: dict[str, Any]) -> None:
    jsonschema.validate(content, json.loads(SCHEMA.read_text(encoding="utf-8")))


@given(reports())
@settings(max_examples=4)
def test_the_page_of_any_report_is_whole(content: dict[str, Any]) -> None:
    text = made(content)
    assert Page(text).faults == []
    text.encode()


def test_the_page_says_what_the_report_says() -> None:
    page = Page(made(report()))
    assert "tiny-merged, 2 tasks, calibrated by anchored" in page.text and "✓ Pass" in page.text
    assert (
        "gguf in llama.cpp: on average over 2 tasks (200 lines), the accuracy is 1.0 points below"
        in page.text
    )
    assert "encoder.layer.2.output.dense.weight Q4_0 0.03 0.02 0.05 0.04" in page.text
    assert "experts 95.0 % merged 85.0 % reference 90.0 % gguf in llama.cpp 89.0 %" in page.text
    assert page.tags.count("svg") == 5


def test_names_are_text_and_no_markup() -> None:
    name = "<img src=x onerror=alert(1)>&\"'"
    page = Page(made(report((name,))))
    assert page.faults == [] and "img" not in page.tags
    assert name in page.text


@pytest.mark.parametrize(
    ("told", "shown"),
    [
        ("ask for `refine: <b>`, then", "ask for <code>refine: &lt;b&gt;</code>, then"),
        ("one ` alone", "one ` alone"),
        ("`a` and ` alone", "<code>a</code> and ` alone"),
        ("`a``b`", "<code>a</code><code>b</code>"),
    ],
)
def test_what_stands_between_backquotes_is_code(told: str, shown: str) -> None:
    assert shown in made(report() | {"warnings": [told]})


def test_what_is_not_printable_is_told_by_its_escape() -> None:
    content = report(("a\x07b\u202e",))
    content["recipe"]["content"]["prompt"] = "\ud800"
    text = made(content)
    assert "a\\x07b\\u202e" in text and "\\ud800" in text
    assert all(letter.isprintable() for letter in text if letter not in "\n")


def test_formulas_and_colours_in_names_are_text() -> None:
    page = Page(made(report(("$x^2$", "#010101"))))
    assert page.text.count("$x^2$") > 2 and page.text.count("#010101") > 2


def test_the_place_on_the_machine_is_not_told() -> None:
    content = report() | {"verdict": "fail", "broken": ["/home/someone/out/gguf/model.gguf: wrong"]}
    text = made(content)
    assert "gguf/model.gguf: wrong" in text and "/home/someone" not in text


@pytest.mark.parametrize(("outcome", "sign"), [("pass", "✓"), ("undecided", "?"), ("fail", "✗")])
def test_each_verdict_has_its_sign_and_its_sentences(outcome: str, sign: str) -> None:
    content = report() | {"verdict": outcome, "broken": ["this is wrong"] if outcome == "fail" else []}
    content["warnings"] = ["this is doubtful"]
    text = Page(made(content)).text
    assert f"{sign} {outcome.capitalize()}" in text and "this is doubtful" in text
    assert ("1 fault found" in text and "this is wrong" in text) == (outcome == "fail")


def test_a_run_without_a_recipe_has_no_scores_and_says_so() -> None:
    page = Page(made(report(())))
    assert page.faults == []
    assert "No task was judged, since no recipe was at hand." in page.text
    assert "not checked: no recipe" in page.text


def test_each_margin_has_a_plot_of_its_own() -> None:
    content = report()
    mixed = judged({"mood": loss(), "topic": loss(0.01, "KL divergence")})
    for file in content["files"]:
        file["checks"]["tasks"] = mixed
    page = Page(made(content))
    assert page.faults == [] and page.tags.count("svg") == 6
    assert "KL divergence from the reference is 0.01 nats" in page.text
    assert "agreement with the task's expert: topic" in page.text


def test_steps_are_told_only_of_scores_that_are_there() -> None:
    content = report()
    del content["scores"]["merged"], content["intervals"]["merged"]
    assert "merge, points" not in made(content)


def test_calibration_and_rounding_are_two_steps_where_the_model_between_was_scored() -> None:
    text = Page(made(report())).text
    assert "calibration and rounding, points" in text and "verify.unrounded: true" in text
    page = Page(made(with_unrounded(report())))
    assert page.faults == [] and page.tags.count("svg") == 5
    assert "merge −10.0, calibration +8.0, rounding −3.0, llama.cpp −1.0, onnxruntime +1.0" in page.text
    assert "verify.unrounded" not in page.text and "merged 85.0 % unrounded 93.0 %" in page.text
    assert "has trained" not in page.text
    refined = {"refine": {"before": 0.2, "after": 0.1, "step": 30}}
    assert "which <code>refine</code> has trained" in made(with_unrounded(report()) | {"search": refined})


def test_a_row_has_its_colour_and_shape_whether_or_not_another_is_there() -> None:
    rows = [*report()["scores"]]
    more = [*with_unrounded(report())["scores"]]
    assert [place_of(row, rows) for row in rows] == [place_of(row, more) for row in rows] == [*range(6)]
    assert place_of("unrounded", more) == 6


def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    """Neither the process nor the user's settings of matplotlib are in them."""
    (tmp_path / "report.json").write_text(json.dumps(report()))
    write_page(tmp_path / "report.json", tmp_path / "here.html")
    (tmp_path / "matplotlibrc").write_text("font.size: 30\naxes.facecolor: red\n")
    program = (
        "from pathlib import Path; from epmq_export.publishing.page import write_page; "
        f"write_page(Path({str(tmp_path / 'report.json')!r}), Path({str(tmp_path / 'there.html')!r}))"
    )
    environment = {"MATPLOTLIBRC": str(tmp_path / "matplotlibrc"), "PYTHONHASHSEED": "7"}
    run = subprocess.run(
        [sys.executable, "-c", program], env=_environment(environment), capture_output=True, text=True
    )
    assert run.returncode == 0, run.stderr
    assert (tmp_path / "here.html").read_bytes() == (tmp_path / "there.html").read_bytes()


def _environment(more: dict[str, str]) -> dict[str, str]:
    import os

    from tests import ROOT

    return {**os.environ, "PYTHONPATH": str(ROOT), **more}


def test_a_page_leaves_matplotlib_as_it_was() -> None:
    before = dict(matplotlib.rcParams)
    made(report())
    assert dict(matplotlib.rcParams) == before


def test_the_page_of_the_largest_models_is_below_a_megabyte() -> None:
    """A mixture of 128 experts in 48 blocks, calibrated twice, judged on 40 tasks of a thousand labels."""
    content = report(tuple(f"task number {i}" for i in range(40)))
    names = [
        f"model.layers.{block}.mlp.experts.{i}.down_proj.weight" for block in range(48) for i in range(128)
    ]
    content["layers"] = [layer(name) for name in names]
    content["tensors"] = [
        {"tensor": name, "storage": "Q4_0", "shape": [2048, 768], "bytes": 884_736} for name in names
    ]
    content["onnx"] = {key: content[key] for key in ("layers", "tensors", "notes")}
    content["recipe"]["content"]["labels"] = [f"a label {i}" for i in range(40_000)]
    text = made(content)
    assert Page(text).faults == []
    assert len(text.encode()) < 1_000_000
    assert "The first 600 of 6144 rows. report.json has all." in text
    assert "The first 24 of 40 tasks are drawn." in text


def test_two_runs_stand_side_by_side(tmp_path: Path) -> None:
    for name, score in (("one", 0.9), ("two", 0.8)):
        content = report()
        content["scores"]["gguf in llama.cpp"] = dict.fromkeys(("mood", "topic", "average"), score)
        content["answers"]["gguf in llama.cpp"]["mood"] = ("1" * round(50 * score)).ljust(50, "0")
        content["verdict"] = "pass" if name == "one" else "undecided"
        (tmp_path / name).mkdir()
        (tmp_path / name / "report.json").write_text(json.dumps(content))
    places = (tmp_path / name / "report.json" for name in ("one", "two"))
    write_comparison(*places, tmp_path / "both.html", compare)
    page = Page((tmp_path / "both.html").read_text(encoding="utf-8"))
    assert page.faults == []
    assert "A: one ✓ Pass" in page.text and "B: two ? Undecided" in page.text
    assert "mood 0.0 0.0 0.0 0.0 −10.0 0.0" in page.text
    assert "mood 90.0 80.0 −10.0 −21.4 to −2.2 the same 84.0 to 94.0 84.0 to 94.0" in page.text
    assert page.tags.count("svg") == 11
    assert "On average, B less A, in points: gguf in llama.cpp −" in page.text
    assert "Nothing differs in base, experts, merged, reference, onnx in onnxruntime" in page.text


def test_averages_over_different_tasks_are_not_compared() -> None:
    one, other = (report_of(report(tasks), PLACE) for tasks in (("mood", "topic"), ("mood",)))
    page = Page(page_of(one, Comparison(other, compare(one, other))))
    assert "Averages are left out" in page.text and "No score differs." in page.text
    assert "average 0.0 0.0" not in page.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "epmq-report-1"}, "format is 'epmq-report-1', expected 'epmq-report-2'"),
        ({"layers": [{"tensor": 3}]}, "layers[0].tensor: Input should be a valid string"),
        ({"scores": {"base": {"mood": 0.5, "average": 0.5}}}, "scores of base has no topic"),
        ({"peak_memory_bytes": "much"}, "peak_memory_bytes: "),
        ({"seconds": {"verify": 1e300}}, "seconds.verify: "),
    ],
)
def test_a_report_that_is_not_whole_is_told_by_its_key(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        made(report() | change)
    assert str(error.value).startswith(f"report.json: {message}")


def test_a_page_that_cannot_be_written_leaves_what_was_there(tmp_path: Path) -> None:
    (tmp_path / "report.json").write_text(json.dumps(report()))
    (tmp_path / "page.html").write_text("before")
    with pytest.raises(InputError, match="no such file"):
        write_page(tmp_path / "none.json", tmp_path / "page.html")
    assert (tmp_path / "page.html").read_text() == "before"
    with pytest.raises(OutputError):
        write_page(tmp_path / "report.json", tmp_path / "report.json" / "page.html")
