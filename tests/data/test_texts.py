import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from epmq_export.data.texts import read_answered, read_labelled, read_texts
from epmq_export.errors import InputError

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
    ("x.jsonl", '{"text": "x", "label": [1]}\n', ":1: found a label that is list, expected a name or a number"),
    ("x.jsonl", '{"text": "x", "label": true}\n', ":1: found a label that is bool, expected a name or a number"),
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
    with pytest.raises(InputError, match=r"d\.txt: found a directory, expected a file of texts$"):
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


def test_labels_that_are_answers(tmp_path: Path) -> None:
    path = put(tmp_path / "x.jsonl", '{"text": "a b", "label": "New York"}\n{"text": "c", "label": 3.8}\n')
    assert read_answered(path, number=False) == [("New York", "a b"), ("3.8", "c")]
    with pytest.raises(InputError, match=r"x.jsonl:1: found the label 'New York', expected a number"):
        read_answered(path, number=True)
    for content, found in (("nan\ta\n", "the label 'nan', expected a number"), ("\ta\n", "no label, expected the answer"), ("a\n", "no label, expected the")):
        with pytest.raises(InputError, match=f"x.tsv:1: found {found}"):
            read_answered(put(tmp_path / "x.tsv", content), number=True)
