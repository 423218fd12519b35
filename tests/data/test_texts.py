"""Texts are read from tables and from the hub, stand in prompts, and are refused in one sentence."""

import json
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st

from epmq_export.data.request import DataRequest
from epmq_export.data.text_rows import Text, Texts, answers_of, classes_of, numbers_of, prompted
from epmq_export.data.texts import read_texts
from epmq_export.errors import InputError
from tests.tiny.hub import Hub
from tests.tiny.image_files import folders, put

CLASSES = datasets.ClassLabel(names=["not_equivalent", "equivalent"])
PAIRS = {
    "sentence1": ["It rains.", "He left ", "We ate."],
    "sentence2": ["Rain falls.", "She {sentence1}", "We slept."],
    "idx": [7, 8, 9],
}


def read(path: Path, default: str = "train", **keys: Any) -> Texts:
    """`keys` are those of the recipe; `default` is the split where they say none."""
    return read_texts(DataRequest(path=path, **keys), default)


def values(texts: Texts) -> list[tuple[str, ...]]:
    return [tuple(sample.values.values()) for sample in texts.samples]


def pairs(labels: list[Any], kind: Any = CLASSES) -> datasets.Dataset:
    kinds = {
        "sentence1": datasets.Value("string"),
        "sentence2": datasets.Value("string"),
        "idx": datasets.Value("int32"),
        "label": kind,
    }
    return datasets.Dataset.from_dict(
        {**{name: column[: len(labels)] for name, column in PAIRS.items()}, "label": labels},
        features=datasets.Features(kinds),
    )


def table(path: Path, **columns: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(pa.table(columns), path)
    return path


# Tables.


def test_columns_of_a_table(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pairs([1, -1, None]).to_parquet(str(path))
    found = read(path, texts=["sentence2", "sentence1"])
    assert values(found) == [
        ("Rain falls.", "It rains."),
        ("She {sentence1}", "He left"),
        ("We slept.", "We ate."),
    ]
    assert [*found.samples[0].values] == ["sentence2", "sentence1"] and found.samples[
        1
    ].place == f"{path}: row 1"
    assert (found.labels, found.names, found.written, found.data) == (
        [1, -1, None],
        ["not_equivalent", "equivalent"],
        False,
        {},
    )
    assert (
        read(path, texts=["sentence1"], labels="idx").labels == [7, 8, 9]
        and read(path, texts=["sentence1"], labels="idx").names is None
    )


@pytest.mark.parametrize(
    "kind", [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
)
def test_the_column_where_none_is_named(tmp_path: Path, kind: pa.DataType) -> None:
    texts = pa.array(["a", " b\n"]).cast(kind)
    assert values(read(table(tmp_path / "x.parquet", text=texts, title=texts, id=[1, 2]))) == [("a",), ("b",)]
    assert values(read(table(tmp_path / "y.parquet", sentence=texts, label=pa.array(["x", "y"])))) == [
        ("a",),
        ("b",),
    ]
    assert read(tmp_path / "x.parquet").labels is None and read(tmp_path / "y.parquet").labels == ["x", "y"]


def test_a_directory_as_the_hub_has_it(tmp_path: Path) -> None:
    for index, name in enumerate(("train-00000-of-00002", "train-00001-of-00002", "test-00000-of-00001")):
        table(tmp_path / "data" / f"{name}.parquet", text=[name], label=[index])
    put(tmp_path / "README.md", b"---\n")
    assert values(read(tmp_path)) == [("train-00000-of-00002",), ("train-00001-of-00002",)]
    assert read(tmp_path, "test").labels == read(tmp_path, split="test").labels == [2]
    with pytest.raises(
        InputError,
        match=(
            r": found the splits test, train and not 'tets', expected the key split to name one of them, "
            r"did you mean 'test'\?$"
        ),
    ):
        read(tmp_path, split="tets")
    table(tmp_path / "data" / "test-00001-of-00002.parquet", text=["x"], label=[0], more=[0])
    assert len(read(tmp_path, "test").samples) == 2
    table(tmp_path / "data" / "test-00001-of-00002.parquet", sentence=["x"], label=[0])
    with pytest.raises(
        InputError,
        match=(
            r"test-00001-of-00002\.parquet: found other columns or classes than in "
            r".*test-00000-of-00001\.parquet, expected"
        ),
    ):
        read(tmp_path, "test")


def test_a_directory_without_tables(tmp_path: Path) -> None:
    folders(tmp_path, cat=2)
    with pytest.raises(
        InputError,
        match=(
            r": found 2 files \(\.png\), expected \.parquet files with texts, or the path of a file of "
            r"texts$"
        ),
    ):
        read(tmp_path)


BAD_TABLES: list[tuple[dict[str, Any], dict[str, Any], str]] = [
    (
        {"a": ["x"], "b": ["y"]},
        {},
        (": found no column 'text', but a, b, expected a column of texts (the key texts names it)"),
    ),
    (
        {"id": [1]},
        {},
        (": found no column 'text', but id, expected a column of texts (the key texts names it)"),
    ),
    (
        {"text": [1]},
        {},
        (": found the column text of int64, expected a column of texts (the key texts names it)"),
    ),
    (
        {"sentence1": ["x"], "sentence2": ["y"]},
        {"texts": ["sentence1", "sentense2"]},
        ": found no column "
        "'sentense2', but "
        "sentence1, "
        "sentence2, "
        "expected a "
        "column of texts (the key texts names it), did you mean 'sentence2'?",
    ),
    (
        {"text": ["x"], "label": [1]},
        {"labels": "lable"},
        (": found no column 'lable', expected one of text, label, did you mean 'label'?"),
    ),
    ({"text": pa.array([], pa.string())}, {}, ": found no row, expected at least one text"),
    ({"text": ["x", " "]}, {}, ": row 1: found no text in the column text, expected a text"),
    (
        {"a": ["x", "y"], "b": ["x", None]},
        {"texts": ["a", "b"]},
        (": row 1: found no text in the column b, expected a text"),
    ),
]


@pytest.mark.parametrize(("columns", "keys", "sentence"), BAD_TABLES, ids=range(len(BAD_TABLES)))
def test_tables_that_are_wrong(
    tmp_path: Path, columns: dict[str, Any], keys: dict[str, Any], sentence: str
) -> None:
    path = table(tmp_path / "x.parquet", **columns)
    with pytest.raises(InputError) as caught:
        read(path, **keys)
    assert str(caught.value) == f"{path}{sentence}"


def test_columns_that_cannot_be_told_apart_or_decoded(tmp_path: Path) -> None:
    path = tmp_path / "x.parquet"
    pq.write_table(pa.Table.from_arrays([pa.array(["a"]), pa.array(["b"])], names=["text", "text"]), path)
    with pytest.raises(
        InputError, match=r"x\.parquet: found the column 'text' twice, expected distinct names$"
    ):
        read(path)
    raw = pa.Array.from_buffers(
        pa.string(), 1, [None, pa.py_buffer(b"\0\0\0\0\2\0\0\0"), pa.py_buffer(b"\xff\xfe")]
    )
    with pytest.raises(
        InputError, match=r"x\.parquet: found texts in the column text that are not in UTF-8$"
    ):
        read(table(path, text=raw))
    put(path, b"PAR1")
    with pytest.raises(InputError, match=r"x\.parquet: not readable as \.parquet \(.+\)$"):
        read(path)


# Labels.


@pytest.mark.parametrize(
    ("labels", "kind", "classes", "truth"),
    [
        ([1, 0], CLASSES, ["not_equivalent", "equivalent"], [1, 0]),
        ([1, 0], CLASSES, ["equivalent", "not_equivalent"], [0, 1]),
        ([1, 0], CLASSES, ["EQUIVALENT", "NOT_EQUIVALENT"], [0, 1]),
        ([1, 0], CLASSES, ["no", "yes"], [1, 0]),  # other names in the same order
        (
            [1, 0],
            CLASSES,
            ["no", "yes", "both"],
            "row 0: found the label 'equivalent', expected one of the task's 3 labels (no, yes, both)",
        ),
        ([1, 0], datasets.Value("int8"), ["no", "yes"], [1, 0]),
        (
            [1, 2],
            datasets.Value("int8"),
            ["no", "yes"],
            "row 1: found the label 2, expected one of the 2 classes, counted from 0",
        ),
        (["yes", "no"], datasets.Value("string"), ["no", "yes"], [1, 0]),
        (["Yes", "no"], datasets.Value("string"), ["no", "yes"], [1, 0]),
        (["Yes", "yes"], datasets.Value("string"), ["Yes", "yes"], [0, 1]),
        (
            ["1", "no"],
            datasets.Value("string"),
            ["no", "yes"],
            "row 0: found the label '1', expected one of the task's 2 labels (no, yes)",
        ),
        ([1, -1], CLASSES, ["no", "yes"], "row 1: found no label, expected one of the task's 2 labels"),
        ([1, None], CLASSES, ["no", "yes"], "row 1: found no label, expected one of the task's 2 labels"),
        (
            [3.8, 1.0],
            datasets.Value("float32"),
            ["no", "yes"],
            "row 0: found the label 3.799999952316284, expected a class: a name or a whole number",
        ),
        (
            [True, False],
            datasets.Value("bool"),
            ["no", "yes"],
            "row 0: found the label True, expected a class: a name or a whole number",
        ),
        (
            [[1], [0]],
            datasets.List(datasets.Value("int8")),
            ["no", "yes"],
            "row 0: found the label [1], expected a class: a name or a whole number",
        ),
    ],
)
def test_classes(
    tmp_path: Path, labels: list[Any], kind: Any, classes: list[str], truth: list[int] | str
) -> None:
    path = tmp_path / "x.parquet"
    pairs(labels, kind).to_parquet(str(path))
    found = read(path, texts=["sentence1"])  # whatever they are: calibration needs none
    if isinstance(truth, list):
        assert classes_of(found, classes) == truth
        return
    with pytest.raises(InputError) as caught:
        classes_of(found, classes)
    assert str(caught.value) == f"{path}: {truth}"


def test_numbers(tmp_path: Path) -> None:
    path = table(tmp_path / "x.parquet", text=["a", "b"], label=[3.75, -1.0])
    assert numbers_of(read(path)) == [3.75, -1.0]
    assert numbers_of(read(table(path, text=["a", "b"], label=[3, -1]))) == [3.0, -1.0]
    for labels, sentence in (
        ([1.5, None], r"row 1: found no label, expected a number"),
        ([1.5, float("nan")], r"row 1: found the label nan, expected a finite number"),
        (["1", "2"], r"row 0: found the label '1', expected a finite number"),
        ([-1.0, -1.0], r"row 0: found the number -1 as the label of all texts, expected numbers that differ"),
    ):
        with pytest.raises(InputError, match=rf"x\.parquet: {sentence}$"):
            numbers_of(read(table(path, text=["a", "b"], label=labels)))
    with pytest.raises(InputError, match=r"x\.parquet: row 0: found no label, expected a number$"):
        numbers_of(read(table(path, text=["a", "b"])))


@pytest.mark.parametrize(
    ("label", "found"),
    [
        ("", "no label"),
        (" ", "no label"),
        ("yes\nno", "the label 'yes\\nno'"),
        ("\ud800", "the label '\\ud800'"),
        (float("nan"), "the label nan"),
    ],
)
def test_what_no_answer_can_be(label: object, found: str) -> None:
    texts = Texts([Text("here", {"text": "x"})], [label])
    with pytest.raises(InputError) as caught:
        answers_of(texts)
    assert str(caught.value).startswith(f"here: found {found}, expected the answer to the text")


# Prompts.


@given(st.text(), st.text(), st.text())
def test_one_text_stands_in_a_prompt_as_it_is(before: str, text: str, after: str) -> None:
    before, after = before.replace("{}", ""), after.replace("{}", "")
    assert prompted(f"{before} {{}} {after}", Text("x", {"sentence": text})) == f"{before} {text} {after}"


@given(st.data())
def test_several_texts_stand_in_a_prompt_as_they_are(data: st.DataObject) -> None:
    names = data.draw(st.lists(st.text("abc_", min_size=1), min_size=2, max_size=4, unique=True))
    texts = {
        name: data.draw(
            st.text() | st.sampled_from([f"{{{other}}}" for other in names]) | st.just(r"\1\g<0>")
        )
        for name in names
    }
    between = st.text("{}:\\ \n\u00e9").filter(lambda part: part[-1:] != "{" and part[:1] != "}")
    parts = [(data.draw(between), name) for name in data.draw(st.permutations([*names, names[0]]))]
    prompt = "".join(f"{part}{{{name}}}" for part, name in parts)
    assert prompted(prompt, Text("x", texts)) == "".join(f"{part}{texts[name]}" for part, name in parts)


# The hub.


def of_hub(default: str = "train", **keys: Any) -> Texts:
    return read_texts(DataRequest(**keys), default)


def test_a_data_set_of_the_hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch, tmp_path, pairs([1, 0, -1]))
    found = of_hub(dataset="nyu-mll/glue", config="mrpc", texts=["sentence1", "sentence2"])
    assert values(found) == [
        ("It rains.", "Rain falls."),
        ("He left", "She {sentence1}"),
        ("We ate.", "We slept."),
    ]
    assert (found.labels, found.names) == ([1, 0, -1], ["not_equivalent", "equivalent"])
    assert found.samples[2].place == "dataset nyu-mll/glue mrpc train: row 2"
    (name, digest), *others = found.data.items()
    assert (name, len(digest), others) == ("dataset nyu-mll/glue mrpc train", 64, [])
    # The same texts and labels have the same digest, whatever they are called; others have another.
    again = of_hub("test", dataset="nyu-mll/glue@v1", config="mrpc", texts=["sentence1", "sentence2"])
    assert [*again.data.items()] == [("dataset nyu-mll/glue@v1 mrpc test", digest)]
    assert hub.calls == [("nyu-mll/glue", "mrpc", "train", None), ("nyu-mll/glue", "mrpc", "test", "v1")]
    hub.found = hub.found.select([2, 0])  # by indices, not as the rows lie
    assert values(of_hub(dataset="org/x", texts=["sentence1"])) == [("We ate.",), ("It rains.",)]
    others = [
        ([1, 0, 0], ["sentence1", "sentence2"]),
        ([1, 0, -1], ["sentence2", "sentence1"]),
        ([1, 0], ["sentence1", "sentence2"]),
    ]
    for labels, texts in others:
        hub.found = pairs(labels)
        assert [*of_hub(dataset="org/x", texts=texts).data.values()] != [digest]


def test_scores_of_the_hub_are_numbers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Hub(monkeypatch, tmp_path, pairs([3.5, 0.25, 5], datasets.Value("float32")))
    found = of_hub(
        dataset="nyu-mll/glue", config="stsb", split="validation", texts=["sentence1", "sentence2"]
    )
    assert numbers_of(found) == [3.5, 0.25, 5]
    with pytest.raises(
        InputError,
        match=(
            r"^dataset nyu-mll/glue stsb validation: row 0: found the label 3\.5, expected a class: a "
            r"name or a whole number$"
        ),
    ):
        classes_of(found, ["no", "yes"])


def test_what_the_hub_has_not_is_one_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(monkeypatch, tmp_path, ValueError("Config name is missing.\nmore\n"))
    with pytest.raises(
        InputError, match=r"^dataset nyu-mll/glue train: cannot be loaded \(Config name is missing\.\)$"
    ):
        of_hub(dataset="nyu-mll/glue")
    hub.found = pairs([])
    with pytest.raises(
        InputError, match=r"^dataset nyu-mll/glue train: found no row, expected at least one text$"
    ):
        of_hub(dataset="nyu-mll/glue", texts=["sentence1"])
    hub.found = pairs([0])
    with pytest.raises(
        InputError,
        match=(
            r"^dataset nyu-mll/glue train: found no column 'text', but sentence1, sentence2, idx, label, "
            r"expected a column of"
        ),
    ):
        of_hub(dataset="nyu-mll/glue")
    hub.found = datasets.Dataset.from_dict({"text": ["a", None]})
    with pytest.raises(
        InputError,
        match=r"^dataset nyu-mll/glue train: row 1: found no text in the column text, expected a text$",
    ):
        of_hub(dataset="nyu-mll/glue")


def test_lines_are_read_by_the_same_keys(tmp_path: Path) -> None:
    put(tmp_path / "x.jsonl", json.dumps({"a": "one", "b": "two", "gold": "yes"}).encode())
    found = read(tmp_path / "x.jsonl", texts=["a", "b"], labels="gold")
    assert values(found) == [("one", "two")] and classes_of(found, ["no", "yes"]) == [1]


def test_labels_that_are_answers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(
        tmp_path / "x.jsonl",
        b'{"text": "a b", "label": "New York"}\n{"text": "c", "label": 3.8}\n{"text": "d", "label": 12}\n',
    )
    found = read(tmp_path / "x.jsonl")
    assert answers_of(found) == ["New York", "3.8", "12"]
    with pytest.raises(InputError, match=r"x.jsonl:1: found the label 'New York', expected a finite number$"):
        numbers_of(found)
    put(tmp_path / "x.tsv", b"4\ta\n\tb\n")
    with pytest.raises(InputError, match=r"x.tsv:2: found no label, expected the answer to the text$"):
        answers_of(read(tmp_path / "x.tsv"))
    put(tmp_path / "y.jsonl", b'{"text": "a b", "label": ["x"]}\n')
    with pytest.raises(
        InputError, match=r"y.jsonl:1: found the label \['x'\], expected the answer to the text$"
    ):
        answers_of(read(tmp_path / "y.jsonl"))
    Hub(monkeypatch, tmp_path, pairs([1, 0, -1]))
    found = of_hub(dataset="nyu-mll/glue", texts=["sentence1", "sentence2"])
    with pytest.raises(InputError, match=r"row 2: found no label, expected the answer to the text$"):
        answers_of(found)
