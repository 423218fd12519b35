"""Tasks of texts with their data."""

import logging
from pathlib import Path
from typing import Any

import datasets
import pytest
import torch

from epmq_export.errors import InputError, RecipeError
from epmq_export.pipeline import refinement
from epmq_export.pipeline.tasks import load_tasks
from epmq_export.recipe.load import load_recipe
from tests.pipeline.tasks.read import TEXTS, tasks_of
from tests.tiny.hub import Hub
from tests.tiny.image_files import folders


def test_a_task_with_labels(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "train.txt").write_text("a\nb\nb\nc\n")
    (tmp_path / "more.tsv").write_text("ignored\td\n")
    (tmp_path / "test.tsv").write_text(
        'good\ta fine day\nbad\tit rained, twice\n1\tshe said "well"\nso_so\tnaïve café\n'
    )
    body = (
        "    calibration: [train.txt, more.tsv]\n    evaluation: test.tsv\n    labels: [bad, so_so, good]\n"
    )
    (task,) = tasks_of(tmp_path, body, samples=4)
    assert (task.name, task.expert) == ("mood", "org/mood")
    assert task.calibration == ["a", "b", "c", "d"]
    assert task.evaluation == ["a fine day", "it rained, twice", 'she said "well"', "naïve café"]
    assert task.truth is not None
    assert task.truth.dtype == torch.int64
    assert task.truth.tolist() == [2, 0, 1, 1]
    assert (task.labels, task.prompts) == (["bad", "so_so", "good"], [["bad"], ["so so"], ["good"]])
    assert not caplog.records
    (fewer,) = tasks_of(tmp_path, body, samples=2)
    assert len(fewer.calibration) == 2
    (all_of_them,) = tasks_of(tmp_path, body, samples=5)
    assert all_of_them.calibration == task.calibration
    assert caplog.messages == ["task mood: 4 distinct calibration texts, 5 asked for: all are used"]


def test_one_text_is_told_as_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "one.txt").write_text("a\n")
    tasks_of(tmp_path, "    calibration: one.txt\n    evaluation: one.txt\n", samples=2)
    assert caplog.messages == [
        "task mood: 1 distinct calibration text, 2 asked for: all are used",
        "task mood: 1 calibration text is an evaluation text too, so its scores may flatter",
    ]


def test_a_task_without_labels_is_judged_on_what_was_not_sampled(tmp_path: Path) -> None:
    (tmp_path / "train.txt").write_text("a\nb\nc\nb\nd\n")
    (task,) = tasks_of(tmp_path, "    calibration: train.txt\n")
    assert task.truth is None
    assert task.labels == task.prompts == []
    assert len(task.calibration) == len(task.evaluation) == 2
    assert sorted(task.calibration + task.evaluation) == ["a", "b", "c", "d"]
    message = (
        r"recipe\.yaml:6: tasks\.mood\.calibration: found 4 distinct samples, none left after "
        r"calibration, expected more than"
    )
    with pytest.raises(RecipeError, match=message):
        tasks_of(tmp_path, "    calibration: train.txt\n", samples=4)
    (tmp_path / "test.tsv").write_text("any\te\n")
    (task,) = tasks_of(tmp_path, "    calibration: train.txt\n    evaluation: test.tsv\n", samples=4)
    assert (task.evaluation, task.truth) == (["e"], None)


def test_calibration_on_evaluation_texts_is_told(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        (tmp_path / "x.txt").write_text("a\nb\n")
        tasks_of(tmp_path, "    calibration: x.txt\n    evaluation: x.txt\n")
    assert caplog.messages == [
        "task mood: 2 calibration texts are evaluation texts too, so its scores may flatter"
    ]


def test_the_model_is_refined_on_more_texts_than_it_is_calibrated_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.txt").write_text("".join(f"text {number}\n" for number in range(20)))
    (tmp_path / "test.txt").write_text("text 3\ntext 4\nanother\n")
    body = "    calibration: train.txt\n    evaluation: test.txt\n"
    monkeypatch.setattr(refinement, "LESSONS", 12)
    monkeypatch.setattr(refinement, "FEWEST", 5)
    (task,) = tasks_of(tmp_path, body, samples=5)
    assert len(task.calibration) == 5 and not {*task.calibration} & {*task.further}
    # Texts that judge teach nothing.
    assert not {*task.further} & {*task.evaluation}
    (larger,) = tasks_of(tmp_path, body, samples=12)
    assert {*task.calibration, *task.further} == {*larger.calibration} - {"text 3", "text 4"} | {
        *task.calibration
    }
    assert not larger.further


def test_where_no_data_judge_half_of_what_is_left_does_at_least(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "train.txt").write_text("".join(f"text {number}\n" for number in range(20)))
    monkeypatch.setattr(refinement, "FEWEST", 5)
    for lessons, taken, further in ((12, 5, 7), (100, 5, 7), (8, 5, 3), (12, 12, 0), (12, 4, 0)):
        monkeypatch.setattr(refinement, "LESSONS", lessons)
        (task,) = tasks_of(tmp_path, "    calibration: train.txt\n", samples=taken)
        parts = task.calibration, task.further, task.evaluation
        assert [*map(len, parts)] == [taken, further, 20 - taken - further]
        assert len({text for part in parts for text in part}) == 20


def test_an_empty_calibration_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("\n")
    with pytest.raises(InputError, match=r"x\.txt: found no text, expected at least one line$"):
        tasks_of(tmp_path, "    calibration: x.txt\n")


def test_a_recipe_without_tasks_has_none_to_load(tmp_path: Path) -> None:
    (tmp_path / "recipe.yaml").write_text("base_model: org/base\nmodels: [{model: org/a}]\n")
    with pytest.raises(RecipeError, match="expected at least one task"):
        load_tasks(load_recipe(tmp_path / "recipe.yaml"), TEXTS)


def test_a_model_of_texts_is_given_no_images(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("a\nb\nc\n")
    folders(tmp_path / "photos", cat=1)
    with pytest.raises(
        InputError,
        match=(
            r"photos: found 1 files \(\.png\), expected \.parquet files with texts, or the path of a file "
            r"of texts$"
        ),
    ):
        tasks_of(tmp_path, "    calibration: photos\n")
    expected = "found it set, expected the key left out: the base model reads texts$"
    with pytest.raises(
        RecipeError, match=rf"recipe\.yaml:8: tasks\.mood\.calibration\[1\]\.images: {expected}"
    ):
        tasks_of(tmp_path, "    calibration:\n      - x.txt\n      - {path: photos, images: image}\n")
    with pytest.raises(RecipeError, match=rf"recipe\.yaml:7: tasks\.mood\.evaluation\.images: {expected}"):
        tasks_of(tmp_path, "    calibration: x.txt\n    evaluation: {dataset: org/x, images: image}\n")


def rows(path: Path, **columns: list[Any]) -> None:
    """Write columns as `datasets` writes them; `label` counts two classes."""
    kinds = {name: datasets.Value("string") for name in columns} | {
        "label": datasets.ClassLabel(names=["not_equivalent", "equivalent"])
    }
    datasets.Dataset.from_dict(columns, features=datasets.Features(kinds)).to_parquet(str(path))


def test_pairs_of_texts_stand_in_a_prompt(tmp_path: Path) -> None:
    (tmp_path / "mrpc").mkdir()
    rows(
        tmp_path / "mrpc/train.parquet",
        a=["one", "{b}", "one", "two"],
        b=["1", "x", "1", "2"],
        label=[1, 0, 1, -1],
    )
    rows(tmp_path / "mrpc/validation.parquet", a=["three", "four"], b=["3", "5"], label=[1, 0])
    rows(tmp_path / "mrpc/test.parquet", a=["three", "four"], b=["3", "5"], label=[-1, -1])
    body = """
    prompt: "{a} = {b}? {brace} {a}"
    calibration: {path: mrpc, texts: [a, b]}
    evaluation: {path: mrpc, split: validation, texts: [b, a], labels: label}
"""
    (task,) = tasks_of(tmp_path, body + '    labels: {no: "no", "yes": "yes"}\n', samples=9)
    assert task.calibration == ["one = 1? {brace} one", "{b} = x? {brace} {b}", "two = 2? {brace} two"]
    assert task.evaluation == ["three = 3? {brace} three", "four = 5? {brace} four"]
    assert (task.labels, task.prompts, task.data) == (["no", "yes"], [["no"], ["yes"]], {})
    assert task.truth is not None and task.truth.dtype == torch.int64 and task.truth.tolist() == [1, 0]
    (swapped,) = tasks_of(tmp_path, body + "    labels: [equivalent, not_equivalent]\n")
    assert swapped.truth is not None and swapped.truth.tolist() == [0, 1]
    (without,) = tasks_of(tmp_path, body)  # the data's own names are not guessed to be meant
    assert (without.truth, without.labels, without.evaluation) == (None, [], task.evaluation)
    with pytest.raises(
        InputError, match=r"test\.parquet: row 0: found no label, expected one of the task's 2 labels$"
    ):
        tasks_of(
            tmp_path, body.replace("split: validation, ", "") + "    labels: [equivalent, not_equivalent]\n"
        )
    (left,) = tasks_of(tmp_path, body[: body.index("    evaluation")], samples=1)
    assert len(left.calibration) == 1 and len(left.evaluation) == 2


def test_tables_and_lines_together(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("a\nb\n")
    rows(tmp_path / "x.parquet", sentence=["b", "c"], label=[0, 1])
    (tmp_path / "x.csv").write_text("gold,sentence\n1,d\nnot_equivalent,e\n")
    body = (
        "    calibration: [x.txt, x.parquet, {path: x.csv, texts: sentence}]\n    evaluation: {path: "
        "x.csv, texts: sentence, labels: gold}\n"
    )
    (task,) = tasks_of(
        tmp_path, body + "    labels: [not_equivalent, equivalent]\n    prompt: 'So: {}'\n", samples=9
    )
    assert task.calibration == ["So: a", "So: b", "So: c", "So: d", "So: e"]
    assert task.evaluation == ["So: d", "So: e"] and task.truth is not None and task.truth.tolist() == [1, 0]


def test_texts_without_labels_have_no_classes(tmp_path: Path) -> None:
    (tmp_path / "x.txt").write_text("a\nb\n")
    (tmp_path / "x.csv").write_text("text\na\n")
    message = (
        r"recipe\.yaml:7: tasks\.mood\.evaluation: found texts without labels, expected labels, since "
        r"the task has classes$"
    )
    for name in ("x.txt", "x.csv"):
        with pytest.raises(RecipeError, match=message):
            tasks_of(tmp_path, f"    calibration: x.txt\n    evaluation: {name}\n    labels: [good, bad]\n")


def test_the_digest_of_a_hubs_texts_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub = Hub(
        monkeypatch, tmp_path, datasets.Dataset.from_dict({"text": ["a", "b", "c"], "label": ["x", "y", "x"]})
    )
    (task,) = tasks_of(
        tmp_path,
        (
            "    calibration: {dataset: org/x}\n    evaluation: {dataset: org/x, config: small}\n    labels: "
            "[x, y]\n"
        ),
    )
    assert [*task.data] == ["dataset org/x train", "dataset org/x small test"] and len(
        {*task.data.values()}
    ) == 1
    assert hub.calls == [("org/x", None, "train", None), ("org/x", "small", "test", None)]
    assert task.truth is not None and task.truth.tolist() == [0, 1, 0]


def test_texts_with_templates(tmp_path: Path) -> None:
    (tmp_path / "x.tsv").write_text("good\ta\nbad\tb\n")
    body = "    calibration: x.tsv\n    evaluation: x.tsv\n"
    (task,) = tasks_of(
        tmp_path, body + '    labels: {bad: "so {sad}", good: fine}\n    templates: ["it is {}.", "{}!"]\n'
    )
    assert task.prompts == [["it is so {sad}.", "so {sad}!"], ["it is fine.", "fine!"]]
    with pytest.raises(
        RecipeError,
        match=(
            r"tasks\.mood\.labels: found nothing, expected the classes, since the task has a head or "
            r"templates$"
        ),
    ):
        tasks_of(tmp_path, body + '    templates: ["it is {}."]\n')
