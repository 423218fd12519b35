"""Line files are read by line, and refused with the line."""

import csv
import gzip
import io
import json
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from epmq_export.data.text_lines import read_lines
from epmq_export.data.text_rows import classes_of, numbers_of
from epmq_export.errors import InputError

LABELS = ["bad", "so_so", "good"]
ROWS = [
    ("good", "a fine day"),
    ("bad", "it rained, twice"),
    ("1", 'she said "well"'),
    ("so_so", "naïve café — 東京"),
]
TRUTH = [2, 0, 1, 1]


def _tsv(rows: list[tuple[str, str]]) -> str:
    return "".join(f"{label}\t{text}\n" for label, text in rows)


def _jsonl(rows: list[tuple[str, str]]) -> str:
    return "".join(
        json.dumps({"text": text, "label": int(label) if label.isdigit() else label}) + "\n"
        for label, text in rows
    )


def _csv(rows: list[tuple[str, str]]) -> str:
    out = io.StringIO()
    csv.writer(out).writerows([("text", "label"), *((text, label) for label, text in rows)])
    return out.getvalue()


WRITERS = {".tsv": _tsv, ".jsonl": _jsonl, ".csv": _csv}


def read_texts(path: Path, *texts: str) -> list[str]:
    """Several of a sample are joined."""
    return [" | ".join(sample.values.values()) for sample in read_lines(path, texts or None).samples]


def read_labelled(path: Path, labels: list[str]) -> list[tuple[int, str]]:
    return list(zip(classes_of(read_lines(path), labels), read_texts(path), strict=True))


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
    assert read_texts(
        put(tmp_path / "a.jsonl", '{"text": "no label", "id": 7}\n\n{"text": "x", "label": null}\n')
    ) == ["no label", "x"]
    assert read_texts(put(tmp_path / "a.csv", 'id,text\n1,"two\nlines"\n\n2,x\n')) == ["two\nlines", "x"]
    assert read_texts(put(tmp_path / "A.TXT", "x\n")) == ["x"]


def test_texts_before_labels_are_told(tmp_path: Path) -> None:
    """They would be taken for labels, and the few labels for all texts."""
    rows = [f"{'a long text ' * 2}{place}\t{place % 2}\n" for place in range(20)]
    path = put(tmp_path / "sst2.tsv", "".join(rows))
    told = r"sst2\.tsv: found 2 distinct texts behind the tabs and 20 before them, expected label<TAB>text"
    with pytest.raises(InputError, match=told):
        read_texts(path)
    assert len(read_texts(put(tmp_path / "few.tsv", "".join(rows[:19])))) == 19


def test_a_name_goes_before_an_index(tmp_path: Path) -> None:
    path = put(tmp_path / "x.tsv", "2\ta\n0\tb\n1\tc\n")
    assert [index for index, _ in read_labelled(path, ["1", "0", "x"])] == [2, 1, 0]


NAMED = {
    ".jsonl": '{"idx": 0, "a": "one ", "b": "two", "gold": 1}\n'
    '{"idx": 1, "b": "four", "a": "three", "gold": "bad"}\n',
    ".csv": "gold,a,idx,b\n1,one ,0,two\nbad,three,1,four\n",
}


@pytest.mark.parametrize("packed", ["", ".gz"])
@pytest.mark.parametrize("ending", NAMED)
def test_columns_that_the_recipe_names(tmp_path: Path, ending: str, packed: str) -> None:
    path = put(tmp_path / f"x{ending}{packed}", NAMED[ending])
    found = read_lines(path, ["b", "a"], "gold")
    assert [dict(sample.values) for sample in found.samples] == [
        {"b": "two", "a": "one"},
        {"b": "four", "a": "three"},
    ]
    assert classes_of(found, LABELS) == [1, 0]
    assert [sample.place for sample in found.samples] == [
        f"{path}:{number}" for number in ((1, 2) if ending == ".jsonl" else (2, 3))
    ]
    assert (read_texts(path, "b"), read_lines(path, ["a"]).labels, found.data) == (["two", "four"], None, {})


BAD_COLUMNS: list[tuple[str, str, list[str] | None, str | None, str]] = [
    (
        "x.txt",
        "x\n",
        ["a"],
        None,
        ": found the key texts, expected it left out: a .txt file has no columns with names",
    ),
    (
        "x.tsv.gz",
        "x\n",
        None,
        "a",
        ": found the key labels, expected it left out: a .tsv file has no columns with names",
    ),
    (
        "x.csv",
        "sentence1,label\n",
        ["sentence1", "sentense"],
        None,
        ":1: found the columns sentence1, label, expected sentence1, sentense and perhaps label, did "
        "you mean 'sentence1'?",
    ),
    ("x.csv", "a,b\n", ["a"], "gold", ":1: found the columns a, b, expected a and gold"),
    ("x.csv", "a,b,a\n", ["a"], None, ":1: found the column a twice, expected a and perhaps label"),
    ("x.csv", "a,b\nx,y\nx, \n", ["a", "b"], None, ":3: found no text in the column b, expected a text"),
    (
        "x.jsonl",
        '{"a": "x", "bb": "y"}\n',
        ["a", "b"],
        "gold",
        ':1: found no "b", but "a", "bb", expected {"a": ..., "b": ..., "gold": ...}, did you mean \'bb\'?',
    ),
    (
        "x.jsonl",
        '{"a": "x", "b": null}\n',
        ["a", "b"],
        None,
        ":1: found no text in the column b, expected a text",
    ),
    (
        "x.jsonl",
        '{"a": "x", "b": ["y"]}\n',
        ["a", "b"],
        None,
        ":1: found a text that is list in the column b, expected a text",
    ),
]


@pytest.mark.parametrize(
    ("name", "content", "texts", "labels", "sentence"), BAD_COLUMNS, ids=range(len(BAD_COLUMNS))
)
def test_columns_that_are_not_there(
    tmp_path: Path, name: str, content: str, texts: list[str] | None, labels: str | None, sentence: str
) -> None:
    path = put(tmp_path / name, content)
    with pytest.raises(InputError) as caught:
        read_lines(path, texts, labels)
    assert str(caught.value) == f"{path}{sentence}"


def test_labels_that_are_numbers(tmp_path: Path) -> None:
    for name, content in (("x.tsv", "3.5\ta\n1e1\tb\n-2\tc\n"), ("x.csv", "label,text\n3.5,a\n10,b\n-2,c\n")):
        assert numbers_of(read_lines(put(tmp_path / name, content))) == [3.5, 10, -2]
    path = put(
        tmp_path / "x.jsonl",
        "".join(f'{{"text": "x", "label": {label}}}\n' for label in ("3.5", "10", '"-2"')),
    )
    assert numbers_of(read_lines(path)) == [3.5, 10, -2]
    for label in ('"good"', "NaN", "Infinity", "true", "[1]", '"nan"', "1" * 400):
        put(path, f'{{"text": "x", "label": {label}}}\n')
        with pytest.raises(InputError, match=r"x\.jsonl:1: found the label .+, expected a finite number$"):
            numbers_of(read_lines(path))
    with pytest.raises(InputError, match=r"x\.jsonl:1: found no label, expected a number$"):
        numbers_of(read_lines(put(path, '{"text": "x"}\n')))


BAD_TEXTS: list[tuple[str, str | bytes, str]] = [
    ("x.txt", "", ": found no text, expected at least one line"),
    ("x.csv", "text,label\n", ": found no text, expected at least one line"),
    ("x.jsonl.gz", "\n\n", ": found no text, expected at least one line"),
    (
        "x.npz",
        "PK",
        ": found the ending '.npz', expected one of .txt, .tsv, .jsonl, .csv, one of these with .gz, or "
        ".parquet",
    ),
    (
        "x.gz",
        "a",
        ": found no ending, expected one of .txt, .tsv, .jsonl, .csv, one of these with .gz, or .parquet",
    ),
    ("x.txt", b"fine\nnot \xff fine\n", ":2: found byte 0xff, expected text in UTF-8"),
    ("x.txt", "fine".encode("utf-16-le"), ":1: found a NUL byte, expected text in UTF-8"),
    ("x.tsv", "bad\tx\nbad\t \n", ":2: found no text, expected a text"),
    ("x.jsonl", '{"text": "x"}\n{"text": 3}\n', ":2: found a text that is int, expected a text"),
    (
        "x.jsonl",
        '{"text": "x"}\n\n{"txt": "x"}\n',
        ':3: found no "text", but "txt", expected {"text": ..., "label": ...}, did you mean \'txt\'?',
    ),
    (
        "x.jsonl",
        '{"turns": [], "id": 1}\n',
        ':1: found no "text", but "turns", "id", expected {"text": ..., "label": ...} (the key texts '
        "names others)",
    ),
    (
        "x.jsonl",
        "{}\n",
        ':1: found no "text", expected {"text": ..., "label": ...} (the key texts names others)',
    ),
    ("x.jsonl", '{"text": "\\ud800"}\n', ":1: found half of a surrogate pair, expected a text"),
    ("x.jsonl", '["x"]\n', ':1: found a list, expected {"text": ..., "label": ...}'),
    ("x.csv", "label,sentence\n", ":1: found the columns label, sentence, expected text and perhaps label"),
    (
        "x.csv",
        "label;text\n",
        ":1: found the columns label;text, expected text and perhaps label, separated by commas",
    ),
    ("x.csv", "", ":1: found no header, expected text and perhaps label"),
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
    (
        "x.tsv",
        "bad\tx\ngod\ty\n",
        ":2: found the label 'god', expected one of the task's 3 labels (bad, so_so, good), did you mean "
        "'good'?",
    ),
    ("x.tsv", "3\ty\n", ":1: found the label 3, expected one of the 3 classes, counted from 0"),
    ("x.tsv", "-1\ty\n", ":1: found the label '-1', expected one of the task's 3 labels (bad, so_so, good)"),
    ("x.tsv", "²\ty\n", ":1: found the label '²', expected one of the task's 3 labels (bad, so_so, good)"),
    ("x.tsv", "bad\tx\njust text\n", ":2: found no label, expected one of the task's 3 labels"),
    ("x.tsv", "\tx\n", ":1: found no label, expected one of the task's 3 labels"),
    ("x.jsonl", '{"text": "x"}\n', ":1: found no label, expected one of the task's 3 labels"),
    (
        "x.jsonl",
        '{"text": "x", "label": [1]}\n',
        ":1: found the label [1], expected a class: a name or a whole number",
    ),
    (
        "x.jsonl",
        '{"text": "x", "label": true}\n',
        ":1: found the label True, expected a class: a name or a whole number",
    ),
    (
        "x.jsonl",
        '{"text": "x", "label": 1.0}\n',
        ":1: found the label 1.0, expected a class: a name or a whole number",
    ),
    ("x.csv", "text\nx\n", ":2: found no label, expected one of the task's 3 labels"),
    ("x.csv", "text,label\ny,bad\nx, \n", ":3: found no label, expected one of the task's 3 labels"),
    ("x.txt", "x\n", ":1: found no label, expected one of the task's 3 labels"),
]


@pytest.mark.parametrize(("name", "content", "sentence"), BAD_LABELS, ids=range(len(BAD_LABELS)))
def test_labels_that_are_not_in_the_list(tmp_path: Path, name: str, content: str, sentence: str) -> None:
    path = put(tmp_path / name, content)
    with pytest.raises(InputError) as caught:
        read_labelled(path, LABELS)
    assert str(caught.value) == f"{path}{sentence}"


@pytest.mark.parametrize(
    "damage",
    [
        lambda raw: raw[:-12],
        lambda raw: b"x" + raw,
        lambda raw: raw[:30] + b"\xff\xff\xff\xff" + raw[34:],
        lambda raw: raw[:5],
    ],
)
def test_broken_gzip(tmp_path: Path, damage: Callable[[bytes], bytes]) -> None:
    path = tmp_path / "x.txt.gz"
    path.write_bytes(damage(gzip.compress("".join(f"line {i * i}\n" for i in range(2000)).encode())))
    with pytest.raises(InputError, match=rf"{path}:\d+: broken gzip after line \d+ \("):
        read_texts(path)


def test_files_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gone\.txt: not readable \(No such file or directory\)$"):
        read_texts(tmp_path / "gone.txt")


@settings(max_examples=200, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.sampled_from(["x.txt", "x.tsv", "x.jsonl", "x.csv"]),
    st.binary(max_size=40) | st.text('text,label\n"{}[]:\t\r 1', max_size=40).map(str.encode),
)
def test_any_bytes_are_read_or_refused(tmp_path: Path, name: str, content: bytes) -> None:
    path = tmp_path / name
    path.write_bytes(content)
    try:
        assert all(text and text == text.strip() for text in read_texts(path))
    except InputError as error:
        assert str(error).startswith(str(path))
