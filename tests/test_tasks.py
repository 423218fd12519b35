import csv
import gzip
import io
import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from epmq_export.errors import EpmqError, InputError, RecipeError
from epmq_export.recipe import load_recipe
from epmq_export.tasks import Task, accuracy, agreement, load_tasks, predict, read_labelled, read_texts, sample

LABELS = ["bad", "so_so", "good"]
ROWS = [("good", "a fine day"), ("bad", "it rained, twice"), ("1", 'she said "well"'), ("so_so", "naïve café — 東京")]
TRUTH = [2, 0, 1, 1]


def _tsv(rows: list[tuple[str, str]]) -> str:
    return "".join(f"{label}\t{text}\n" for label, text in rows)


def _jsonl(rows: list[tuple[str, str]]) -> str:
    return "".join(json.dumps({"text": text, "label": int(label) if label.isdigit() else label}) + "\n" for label, text in rows)


def _csv(rows: list[tuple[str, str]]) -> str:
    out = io.StringIO()
    csv.writer(out).writerows([("text", "label"), *((text, label) for label, text in rows)])
    return out.getvalue()


WRITERS = {".tsv": _tsv, ".jsonl": _jsonl, ".csv": _csv}


def put(path: Path, content: str | bytes) -> Path:
    raw = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(raw) if path.name.endswith(".gz") else raw)
    return path


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("ending", WRITERS)
def test_labelled_lines(tmp_path: Path, ending: str, packed: str) -> None:
    path = put(tmp_path / f"test{ending}{packed}", WRITERS[ending](ROWS))
    assert read_labelled(path, LABELS) == list(zip(TRUTH, [text for _, text in ROWS], strict=True))
    assert read_texts(path) == [text for _, text in ROWS]


@pytest.mark.parametrize("packed", ["", ".gz"])
def test_a_text_a_line(tmp_path: Path, packed: str) -> None:
    path = put(tmp_path / f"x.txt{packed}", "\ufeff one\tand more \r\n\n  \ntwo\u2028still two\x85\nthree")
    assert read_texts(path) == ["one\tand more", "two\u2028still two", "three"]


def test_what_each_kind_of_file_allows(tmp_path: Path) -> None:
    assert read_texts(put(tmp_path / "a.tsv", "no tab\nlabel\ta\tb\n")) == ["no tab", "a\tb"]
    assert read_texts(put(tmp_path / "a.jsonl", '{"text": "no label", "id": 7}\n\n{"text": "x", "label": null}\n')) == ["no label", "x"]
    assert read_texts(put(tmp_path / "a.csv", 'id,text\n1,"two\nlines"\n\n2,x\n')) == ["two\nlines", "x"]
    assert read_texts(put(tmp_path / "A.TXT", "x\n")) == ["x"]


def test_a_name_goes_before_an_index(tmp_path: Path) -> None:
    path = put(tmp_path / "x.tsv", "2\ta\n0\tb\n1\tc\n")
    assert [index for index, _ in read_labelled(path, ["1", "0", "x"])] == [2, 1, 0]


BAD_TEXTS: list[tuple[str, str | bytes, str]] = [
    ("x.txt", "", ": found no text, expected at least one line"),
    ("x.csv", "text,label\n", ": found no text, expected at least one line"),
    ("x.jsonl.gz", "\n\n", ": found no text, expected at least one line"),
    ("x.parquet", "PAR1", ": found the ending '.parquet', expected one of .txt, .tsv, .jsonl, .csv, or one of these with .gz"),
    ("x.gz", "a", ": found the ending 'of no kind', expected one of .txt, .tsv, .jsonl, .csv, or one of these with .gz"),
    ("x.txt", b"fine\nnot \xff fine\n", ":2: found byte 0xff, expected text in UTF-8"),
    ("x.txt", "fine".encode("utf-16-le"), ":1: found a NUL byte, expected text in UTF-8"),
    ("x.tsv", "bad\tx\nbad\t \n", ":2: found no text, expected a text"),
    ("x.jsonl", '{"text": "x"}\n{"text": 3}\n', ":2: found a text that is int, expected a text"),
    ("x.jsonl", '{"text": "x"}\n\n{"txt": "x"}\n', ':3: found no "text", expected {"text": ..., "label": ...}'),
    ("x.jsonl", '{"text": "\\ud800"}\n', ":1: found half of a surrogate pair, expected a text"),
    ("x.jsonl", '["x"]\n', ':1: found no "text", expected {"text": ..., "label": ...}'),
    ("x.jsonl", '{"text": "x", "label": [1]}\n', ":1: found a label that is list, expected a name or an index"),
    ("x.jsonl", '{"text": "x", "label": true}\n', ":1: found a label that is bool, expected a name or an index"),
    ("x.csv", "label,sentence\n", ":1: found the columns label, sentence, expected text and perhaps label"),
    ("x.csv", 'text,label\n"a\nb",bad\nc\n', ":4: found 1 fields, expected 2 as in the header"),
    ("x.csv", 'text\nfine\n"open\n', ":3: not readable as CSV (unexpected end of data)"),
]


@pytest.mark.parametrize(("name", "content", "sentence"), BAD_TEXTS, ids=range(len(BAD_TEXTS)))
def test_files_without_readable_texts(tmp_path: Path, name: str, content: str | bytes, sentence: str) -> None:
    path = put(tmp_path / name, content)
    with pytest.raises(InputError) as caught:
        read_texts(path)
    assert str(caught.value) == f"{path}{sentence}"


BAD_LABELS = [
    ("x.tsv", "bad\tx\ngod\ty\n", ":2: found the label 'god', expected one of the task's 3 labels (bad, so_so, good), did you mean 'good'?"),
    ("x.tsv", "3\ty\n", ":1: found the label index 3, expected one below 3"),
    ("x.tsv", "-1\ty\n", ":1: found the label '-1', expected one of the task's 3 labels (bad, so_so, good)"),
    ("x.tsv", "²\ty\n", ":1: found the label '²', expected one of the task's 3 labels (bad, so_so, good)"),
    ("x.tsv", "bad\tx\njust text\n", ":2: found no label, expected one of the task's 3 labels"),
    ("x.jsonl", '{"text": "x"}\n', ":1: found no label, expected one of the task's 3 labels"),
    ("x.csv", "text\nx\n", ":2: found no label, expected one of the task's 3 labels"),
    ("x.csv", "text,label\nx,\n", ":2: found the label '', expected one of the task's 3 labels (bad, so_so, good)"),
    ("x.txt", "x\n", ": a .txt file has no labels, expected one of .tsv, .jsonl, .csv"),
]


@pytest.mark.parametrize(("name", "content", "sentence"), BAD_LABELS, ids=range(len(BAD_LABELS)))
def test_labels_that_are_not_in_the_list(tmp_path: Path, name: str, content: str, sentence: str) -> None:
    path = put(tmp_path / name, content)
    with pytest.raises(InputError) as caught:
        read_labelled(path, LABELS)
    assert str(caught.value) == f"{path}{sentence}"


@pytest.mark.parametrize("damage", [lambda raw: raw[:-12], lambda raw: b"x" + raw, lambda raw: raw[:30] + b"\xff\xff\xff\xff" + raw[34:], lambda raw: raw[:5]])
def test_broken_gzip(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "x.txt.gz"
    path.write_bytes(damage(gzip.compress("".join(f"line {i * i}\n" for i in range(2000)).encode())))
    with pytest.raises(InputError, match=rf"{path}:\d+: broken gzip after line \d+ \("):
        read_texts(path)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.txt: not readable \(No such file or directory\)$"):
        read_texts(tmp_path / "gone.txt")
    (tmp_path / "d.txt").mkdir()
    with pytest.raises(InputError, match=r"d\.txt: not readable \(Is a directory\)$"):
        read_texts(tmp_path / "d.txt")


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.sampled_from(["x.txt", "x.tsv", "x.jsonl", "x.csv"]), st.binary(max_size=40) | st.text('text,label\n"{}[]:\t\r 1', max_size=40).map(str.encode))
def test_any_bytes_are_read_or_refused(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    try:
        assert all(text and text == text.strip() for text in read_texts(path))
    except InputError as error:
        assert str(error).startswith(str(path))


TEXTS = st.lists(st.text(max_size=3), max_size=30)


@given(TEXTS, st.integers(1, 40), st.integers(0, 5), st.randoms())
def test_a_sample_is_distinct_in_order_and_of_its_size(texts: list[str], count: int, seed: int, order: object) -> None:
    distinct = list(dict.fromkeys(texts))
    found = sample(texts, count, seed)
    assert len(found) == min(count, len(distinct))
    assert found == [text for text in distinct if text in set(found)]
    assert set(found) <= set(sample(texts, count + 1, seed))
    assert set(sample(texts[::-1], count, seed)) == set(found)


def test_a_sample_is_the_same_everywhere_and_depends_on_the_seed() -> None:
    texts = [f"text {i}" for i in range(1000)]
    assert sample(texts, 4, 0) == ["text 236", "text 251", "text 266", "text 765"]
    assert len(set(sample(texts, 500, 0)) & set(sample(texts, 500, 1))) < 300
    # No stretch of the file is preferred.
    assert 200 < sum(text in set(texts[:500]) for text in sample(texts, 500, 2)) < 300


# Tasks of a recipe.


def tasks_of(folder: Path, body: str, samples: int = 2) -> list[Task]:
    (folder / "recipe.yaml").write_text(f"base_model: org/base\ncalibration: {{samples: {samples}}}\ntasks:\n  mood:\n    expert: org/mood\n{body}")
    return load_tasks(load_recipe(folder / "recipe.yaml"))


def test_a_task_with_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put(tmp_path / "train.txt", "a\nb\nb\nc\n")
    put(tmp_path / "more.tsv", "ignored\td\n")
    put(tmp_path / "test.tsv", _tsv(ROWS))
    body = "    calibration: [train.txt, more.tsv]\n    evaluation: test.tsv\n    labels: [bad, so_so, good]\n"
    (task,) = tasks_of(tmp_path, body, samples=4)
    assert (task.name, task.expert) == ("mood", "org/mood")
    assert task.calibration == ["a", "b", "c", "d"]
    assert task.evaluation == [text for _, text in ROWS]
    assert task.truth is not None
    assert task.truth.dtype == torch.int64
    assert task.truth.tolist() == TRUTH
    assert (task.labels, task.label_texts) == (LABELS, ["bad", "so so", "good"])
    assert not caplog.records
    (fewer,) = tasks_of(tmp_path, body, samples=2)
    assert len(fewer.calibration) == 2
    (all_of_them,) = tasks_of(tmp_path, body, samples=5)
    assert all_of_them.calibration == task.calibration
    assert caplog.messages == ["task mood: 4 distinct calibration texts, 5 asked for: all are used"]


def test_a_task_without_labels_is_judged_on_what_was_not_sampled(tmp_path: Path) -> None:
    put(tmp_path / "train.txt", "a\nb\nc\nb\nd\n")
    (task,) = tasks_of(tmp_path, "    calibration: train.txt\n")
    assert task.truth is None
    assert task.labels == task.label_texts == []
    assert len(task.calibration) == len(task.evaluation) == 2
    assert sorted(task.calibration + task.evaluation) == ["a", "b", "c", "d"]
    message = r"recipe\.yaml:6: tasks\.mood\.calibration: found 4 distinct texts, all taken for calibration, expected more than"
    with pytest.raises(RecipeError, match=message):
        tasks_of(tmp_path, "    calibration: train.txt\n", samples=4)
    put(tmp_path / "test.tsv", "any\te\n")
    (task,) = tasks_of(tmp_path, "    calibration: train.txt\n    evaluation: test.tsv\n", samples=4)
    assert (task.evaluation, task.truth) == (["e"], None)


def test_calibration_on_evaluation_texts_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        put(tmp_path / "x.txt", "a\nb\n")
        tasks_of(tmp_path, "    calibration: x.txt\n    evaluation: x.txt\n")
    assert caplog.messages == ["task mood: 2 calibration texts are evaluation texts too, so its scores may flatter"]


def test_an_empty_calibration_file_is_refused(tmp_path: Path) -> None:
    put(tmp_path / "x.txt", "\n")
    with pytest.raises(InputError, match=r"x\.txt: found no text, expected at least one line$"):
        tasks_of(tmp_path, "    calibration: x.txt\n")


def test_a_recipe_without_tasks_has_none_to_load(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("base_model: org/base\nmodels: [{model: org/a}]\n")
    with pytest.raises(RecipeError, match="expected at least one task"):
        load_tasks(load_recipe(tmp_path / "recipe.yaml"))


# Scores.

HEAD = torch.tensor([[1.0, 0.0], [0.0, 10.0], [-1.0, 0.0]])


def test_the_class_of_the_largest_cosine() -> None:
    outputs = torch.tensor([[3.0, 1.0], [1e-3, 1e-2], [-5e30, 1.0], [1.0, 1.1]])
    found = predict(outputs, HEAD)
    assert found.dtype == torch.int64
    assert found.tolist() == [0, 1, 2, 1]
    assert accuracy(outputs, HEAD, torch.tensor([0, 1, 2, 0])) == 0.75


def test_agreement_is_the_mean_cosine() -> None:
    a, b = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 4.0]]), torch.tensor([[5.0, 0.0], [0.0, -1.0], [4.0, 3.0]])
    assert agreement(a, b) == pytest.approx((1 - 1 + 24 / 25) / 3)
    assert agreement(a, a) == pytest.approx(1, abs=1e-12)


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_row_that_is_not_finite_has_no_score(bad: float) -> None:
    outputs = torch.ones(3, 2)
    outputs[1:, 0] = bad
    for score in (lambda: predict(outputs, HEAD), lambda: accuracy(outputs, HEAD, torch.zeros(3)), lambda: agreement(outputs, torch.ones(3, 2))):
        with pytest.raises(InputError, match=r"^an output is not finite: row 1, the first of 2 of 3$"):
            score()
    with pytest.raises(InputError, match=r"^the label text's embedding is not finite: row 1"):
        predict(torch.ones(3, 2), outputs)
    with pytest.raises(InputError, match=r"^a reference output is not finite: row 1"):
        agreement(torch.ones(3, 2), outputs)


def test_scores_of_what_does_not_fit_are_refused() -> None:
    cases: list[tuple[Callable[[], object], str]] = [
        (lambda: predict(torch.ones(2, 3), HEAD), "outputs are 3 wide and the label texts' embeddings 2"),
        (lambda: predict(torch.zeros(2, 2), HEAD), "an output is all zero: row 0"),
        (lambda: predict(torch.ones(0, 2), HEAD), r"an array of shape \[0, 2\]"),
        (lambda: accuracy(torch.ones(2, 2), HEAD, torch.zeros(3)), "found 2 outputs for 3 labelled texts"),
        (lambda: agreement(torch.ones(2, 2), torch.ones(3, 2)), r"outputs \[2, 2\] and a reference \[3, 2\]"),
    ]
    for case, sentence in cases:
        with pytest.raises(EpmqError, match=sentence):
            case()
