"""What a person sees, in a terminal's width."""

import io
import logging

import pytest

from epmq_export.console import terminal
from epmq_export.console.verdict import scores_table

SCORES = {"base": 0.5, "experts": 0.75, "merged": 0.6, "reference": 0.7, "gguf in llama.cpp": 0.7}


def printed(tasks: list[str], width: int) -> list[str]:
    console = terminal._Console(width=width)
    rows = {model: dict.fromkeys([*tasks, "average"], value) for model, value in SCORES.items()}
    with console.capture() as captured:
        console.print(scores_table(rows))
    return captured.get().splitlines()


def test_a_long_name_leaves_the_numbers_their_room() -> None:
    lines = printed(["mood", "t" * 200], 80)
    assert all(len(line) <= 80 for line in lines)
    assert sum(line.count("t") for line in lines if set(line.split()[0:1]) <= {"t" * 26, "t" * 25}) > 0
    assert "".join(lines).count("t" * 20) >= 7 and sum("70.0" in line for line in lines) == 3


def test_names_of_usual_length_stay_whole() -> None:
    lines = printed(["sentiment_of_reviews"], 80)
    assert any(line.strip().startswith("sentiment_of_reviews ") and "70.0" in line for line in lines)


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
