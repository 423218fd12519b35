"""What a person sees, in a terminal's width."""

import io
import logging

import pytest
from rich.table import Table

from epmq_export.console import terminal
from epmq_export.console.forecast import duration_range
from epmq_export.console.losses import tasks_outcome
from epmq_export.console.verdict import scores_table

SCORES = {"base": 0.5, "experts": 1.0, "merged": 0.6, "reference": 0.7, "gguf in llama.cpp": 0.7}
SCORES |= {"onnx in onnxruntime": 0.123}


def printed(tasks: list[str], width: int) -> list[str]:
    console = terminal._Console(width=width)
    rows = {model: dict.fromkeys([*tasks, "average"], value) for model, value in SCORES.items()}
    with console.capture() as captured:
        console.print(scores_table(rows, width))
    return captured.get().splitlines()


@pytest.mark.parametrize("width", [72, 80, 120])
def test_a_long_name_leaves_the_numbers_their_room(width: int) -> None:
    lines = printed(["mood", "t" * 200], width)
    assert all(len(line) <= width for line in lines)
    rows = [line.split() for line in lines if "100.0" in line]
    assert [row[1:] for row in rows] == [["50.0", "100.0", "60.0", "70.0", "70.0", "12.3"]] * 3
    assert sum(line.count("t") for line in lines if set(line.strip()) <= {"t"} or "tttt" in line) == 200


@pytest.mark.parametrize("name", ["tweet_emotion", "sentiment140_en"])
def test_names_of_usual_length_stay_whole(name: str) -> None:
    assert any(line.strip().startswith(f"{name} ") and "100.0" in line for line in printed([name], 80))


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("übung 日本 👩‍👩‍👧 [red]", "übung 日本 👩‍👩‍👧 [red]"),
        ("\x1b[31m\n\r\x07", "\\x1b[31m\\n\\r\\x07"),
        ("right \u202e to left", "right \\u202e to left"),
        ("byte \udcff", "byte \\udcff"),
    ],
)
def test_no_text_controls_the_terminal(text: str, shown: str) -> None:
    assert terminal.visible(text) == shown


def test_a_record_of_the_log_is_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    terminal.show_log(verbose=False)
    try:
        logging.getLogger("epmq_export.anything").warning("task %s: %s", "[red]\nx[/red]", "long " * 40)
    finally:
        logging.basicConfig(handlers=[logging.NullHandler()], force=True)
    assert capsys.readouterr().err == f"WARNING: task [red]\\nx[/red]: {'long ' * 40}\n"


def test_signs_that_an_encoding_lacks_have_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="ascii"))
    assert terminal.mark(True, "equal").plain == "ok equal" and terminal.mark(False, "x").plain == "FAIL x"
    assert terminal.sign("×") == "x" and not terminal.encodes_signs()
    monkeypatch.setattr("sys.stdout", io.TextIOWrapper(io.BytesIO(), encoding="utf-8"))
    assert terminal.mark(True, "equal").plain == "✓ equal" and terminal.encodes_signs()


@pytest.mark.parametrize(
    ("rule", "outcome", "passed", "text"),
    [
        ("confidence", "pass", True, "✓ drop under 2.4, up to 3.0"),
        ("confidence", "undecided", True, "? drop under 2.4, up to 3.0"),
        ("confidence", "undecided", False, "✗ drop under 2.4, up to 3.0"),
        ("confidence", "fail", False, "✗ drop over -0.4, up to 3.0"),
        ("point", "pass", True, "✓ worst KL 0.02, up to 0.05"),
        ("confidence", None, False, "✗ no output"),
    ],
)
def test_outcomes_of_the_tasks(rule: str, outcome: str | None, passed: bool, text: str) -> None:
    loss = {"value": 0.01, "lower": -0.004, "upper": 0.024}
    group = {"outcome": outcome, "measure": "accuracy", "loss": loss, "margin": 0.03}
    worst = {"measure": "KL divergence", "loss": {"value": 0.02}, "margin": 0.05}
    facts = {
        "rule": rule,
        "outcome": outcome,
        "pooled": [group],
        "worst": {"task": "a"},
        "by_task": {"a": worst},
    }
    assert tasks_outcome(facts, passed).plain == text


def test_a_title_is_one_line_above_a_narrow_table(capsys: pytest.CaptureFixture[str]) -> None:
    table = Table(title="Loss against the reference (95 % interval)", title_justify="left")
    table.add_row("0.1")
    terminal.show_table(table)
    assert capsys.readouterr().out.splitlines()[0] == "Loss against the reference (95 % interval)"


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        ((0.2, 1.1), "1 second"),
        ((2.0, 40.0), "2 seconds to 40 seconds"),
        ((80.0, 95.0), "80 seconds to 1.6 minutes"),
    ],
)
def test_a_range_of_nothing_is_one_time(seconds: tuple[float, float], shown: str) -> None:
    assert duration_range(seconds) == shown
