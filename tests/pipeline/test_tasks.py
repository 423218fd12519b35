"""The tasks of a recipe with their data."""

import logging
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from epmq_export.data.task import Task
from epmq_export.errors import InputError, RecipeError
from epmq_export.models.family import Images
from epmq_export.models.samples import Sample, digest, picture_of
from epmq_export.pipeline import refinement
from epmq_export.pipeline.tasks import load_tasks
from epmq_export.recipe.load import load_recipe
from tests.tiny.hub import Hub
from tests.tiny.image_files import folders, png, put

# All that is asked of a family here: what it reads.
TEXTS: Any = SimpleNamespace(images=None, language=None, zero_shot=None, classifiers=None)
PICTURES: Any = SimpleNamespace(images=Images(numbers=3, tokens=1), language=None)


def tasks_of(folder: Path, body: str, samples: int = 2, family: Any = TEXTS) -> list[Task]:
    (folder / "recipe.yaml").write_text(
        f"base_model: org/base\ncalibration: {{samples: {samples}}}\ntasks:\n  mood:\n    expert: "
        f"org/mood\n{body}"
    )
    return load_tasks(load_recipe(folder / "recipe.yaml"), family)


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
    (task,) = tasks_of(tmp_path, body, samples=5)
    assert len(task.calibration) == 5 and not {*task.calibration} & {*task.further}
    # Texts that judge teach nothing.
    assert not {*task.further} & {*task.evaluation}
    (larger,) = tasks_of(tmp_path, body, samples=12)
    assert {*task.calibration, *task.further} == {*larger.calibration} - {"text 3", "text 4"} | {
        *task.calibration
    }
    assert not larger.further
    # Where no data judge, what is left does.
    (unjudged,) = tasks_of(tmp_path, "    calibration: train.txt\n", samples=5)
    assert not unjudged.further and len(unjudged.evaluation) == 15


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


# Images.


def images_of(folder: Path, body: str, samples: int = 2) -> Task:
    (task,) = tasks_of(folder, body, samples, PICTURES)
    return task


def places(samples: Sequence[Sample], folder: Path) -> list[str]:
    return [Path(picture_of(sample).place).relative_to(folder).as_posix() for sample in samples]


@pytest.fixture
def pets(tmp_path: Path) -> Path:
    folders(tmp_path / "pets", train__cat=3, train__big_dog=3, test__cat=1, test__big_dog=2)
    return tmp_path


TEMPLATES = '    templates: ["a photo of a {}."]\n'


def test_classes_are_named_by_the_data(pets: Path) -> None:
    task = images_of(pets, "    calibration: pets\n    evaluation: pets\n" + TEMPLATES, samples=4)
    assert len(task.calibration) == 4 and all(
        place.startswith("pets/train/") for place in places(task.calibration, pets)
    )
    assert places(task.evaluation, pets) == [
        "pets/test/big_dog/0.png",
        "pets/test/big_dog/1.png",
        "pets/test/cat/0.png",
    ]
    assert (task.labels, task.prompts) == (
        ["big_dog", "cat"],
        [["a photo of a big dog."], ["a photo of a cat."]],
    )
    assert task.truth is not None and task.truth.dtype == torch.int64 and task.truth.tolist() == [0, 0, 1]
    assert (task.notes, task.data, task.head) == ([], {}, None)


def test_classes_in_the_order_of_the_recipe(pets: Path) -> None:
    body = (
        "    calibration: [{path: pets, split: train}, pets/test]\n    evaluation: {path: pets, "
        "split: test}\n"
    )
    task = images_of(pets, body + "    labels: {cow: cow, cat: kitten, big_dog: hound}\n", samples=9)
    assert len(task.calibration) == 9
    assert task.truth is not None and task.truth.tolist() == [2, 2, 1]
    assert (task.labels, task.prompts) == (["cow", "cat", "big_dog"], [["cow"], ["kitten"], ["hound"]])
    message = (
        r"big_dog/0\.png: found the label 'big_dog', expected one of the task's 2 labels \(cat, "
        r"big_dogs\), did you mean 'big_dogs'\?$"
    )
    with pytest.raises(InputError, match=message):
        images_of(pets, body + "    labels: [cat, big_dogs]\n")


def test_a_head_needs_no_prompts(pets: Path) -> None:
    (pets / "head.safetensors").touch()
    task = images_of(pets, "    calibration: pets\n    evaluation: pets\n    head: head.safetensors\n")
    assert (task.head, task.labels) == (pets / "head.safetensors", ["big_dog", "cat"])


PIXELS = np.arange(36, dtype=np.uint8).reshape(3, 3, 4)


@pytest.mark.parametrize(
    ("names", "labels", "truth"),
    [
        (None, "[zero, one, two]", [2, 0, 1]),
        (["a", "b", "c"], "[zero, one, two]", [2, 0, 1]),  # other names in the same order
        (["a", "b", "c"], "[zero, b, two]", [2, 0, 1]),
        (["a", "b", "c"], "[c, b, a]", [0, 2, 1]),
        (["a", "b", "c"], "[d, c, b, a]", [1, 3, 2]),
        (
            ["a", "b", "c"],
            "[b, zero, two]",
            "found the label 'c', expected one of the task's 3 labels",
        ),  # neither by name nor in the same order
        (["a", "b", "c"], "[zero, one]", "found the label 'c', expected one of the task's 2 labels"),
        (None, "[zero, one]", "found the label 2, expected one of the 2 classes, counted from 0"),
        (["a", "b"], "[a, b]", "found the label 2, expected one of the 2 classes, counted from 0"),
    ],
)
def test_counted_classes(
    tmp_path: Path, names: list[str] | None, labels: str, truth: list[int] | str
) -> None:
    np.savez(
        tmp_path / "x.npz",
        x=PIXELS,
        y=np.array([2, 0, 1]),
        **({} if names is None else {"names": np.array(names)}),
    )
    body = f"    calibration: x.npz\n    evaluation: x.npz\n    labels: {labels}\n"
    if isinstance(truth, str):
        with pytest.raises(InputError, match=rf"x\.npz: x\[0\]: {truth}"):
            images_of(tmp_path, body)
        return
    found = images_of(tmp_path, body).truth
    assert found is not None and found.tolist() == truth


def test_what_has_no_label_or_no_class_cannot_be_scored(pets: Path) -> None:
    np.savez(pets / "x.npz", x=PIXELS)
    np.savez(pets / "y.npz", x=PIXELS, y=np.array([0, -1, 1]))
    with pytest.raises(
        RecipeError,
        match=r"recipe\.yaml:7: tasks\.mood\.evaluation: found images without labels, expected labels",
    ):
        images_of(pets, "    calibration: x.npz\n    evaluation: x.npz\n    labels: [a, b]\n")
    with pytest.raises(
        InputError, match=r"y\.npz: x\[1\]: found no label, expected one of the task's 2 labels$"
    ):
        images_of(pets, "    calibration: y.npz\n    evaluation: y.npz\n    labels: [a, b]\n")
    message = r"tasks\.mood\.labels: found nothing, expected the classes: the evaluation images "
    with pytest.raises(RecipeError, match=message + "have no names of their own$"):
        images_of(pets, "    calibration: y.npz\n    evaluation: y.npz\n" + TEMPLATES)
    folders(pets / "one", cat=2)
    with pytest.raises(RecipeError, match=message + "are all of the class 'cat'$"):
        images_of(pets, "    calibration: pets\n    evaluation: one\n" + TEMPLATES)


def test_images_without_labels_are_judged_on_what_was_not_sampled(pets: Path) -> None:
    put(pets / "pets" / "train" / "cat" / "again.png", (pets / "pets/train/cat/0.png").read_bytes())
    task = images_of(pets, "    calibration: pets/train\n", samples=4)
    assert (task.truth, task.labels, task.prompts) == (None, [], [])
    assert len(task.calibration) == 4 and len(task.evaluation) == 2
    assert not {digest(each) for each in task.calibration} & {digest(each) for each in task.evaluation}
    with pytest.raises(
        RecipeError,
        match=(
            r"recipe\.yaml:6: tasks\.mood\.calibration: found 6 distinct samples, none left after "
            r"calibration"
        ),
    ):
        images_of(pets, "    calibration: pets/train\n", samples=6)


def test_a_broken_calibration_image_is_told_and_another_taken(
    pets: Path, caplog: pytest.LogCaptureFixture
) -> None:
    body = "    calibration: pets\n    evaluation: pets\n" + TEMPLATES
    chosen = places(images_of(pets, body, samples=4).calibration, pets)
    put(pets / chosen[1], b"no image")
    put(pets / chosen[2], b"nor this")
    task = images_of(pets, body, samples=4)
    assert len(task.calibration) == 4 and {chosen[0], chosen[3]} <= set(places(task.calibration, pets))
    (note,) = task.notes
    # The path is the recipe's: the note goes into files that are the same on every machine.
    assert note.startswith("task mood: ") and note.endswith(
        "found no image, expected an image (PNG, JPEG, WEBP, BMP, GIF, TIFF, PPM)"
    )
    assert (
        " of " in note
        and " calibration images cannot be decoded and are left out, the first: pets/train/" in note
    )
    assert caplog.messages == [note]
    caplog.clear()
    assert len(images_of(pets, body, samples=6).calibration) == 4
    assert caplog.messages[0].startswith(
        "task mood: 2 of 6 calibration images cannot be decoded and are left out, the first: pets/train/"
    )
    assert caplog.messages[1] == "task mood: 4 distinct calibration images, 6 asked for: all are used"


def test_what_is_broken_is_not_left_over_either(pets: Path) -> None:
    put(pets / "pets/train/cat/0.png", b"no image")
    task = images_of(pets, "    calibration: pets\n", samples=3)
    assert len(task.evaluation) == 2 and task.notes[0].startswith(
        "task mood: 1 of 6 calibration images cannot be decoded"
    )


def test_broken_images_that_cannot_be_left_out(pets: Path) -> None:
    put(pets / "pets/test/cat/0.png", b"no image")
    with pytest.raises(InputError, match=r"pets/test/cat/0\.png: found no image, expected an image"):
        images_of(pets, "    calibration: pets\n    evaluation: pets\n" + TEMPLATES)
    put(pets / "bad" / "a.png", b"no image")
    put(pets / "bad" / "b.png", b"nor this")
    with pytest.raises(
        InputError,
        match=(
            r"^task mood: none of its 2 calibration images can be decoded, the first: .*bad/[ab]\.png: "
            r"found no image"
        ),
    ):
        images_of(pets, "    calibration: bad\n    evaluation: pets\n")


def test_a_model_of_images_is_given_no_texts(pets: Path) -> None:
    (pets / "x.tsv").write_text("a\tb\n")
    expected = (
        r"expected a directory of images or a file that ends in \.parquet or \.npz: the base model "
        r"reads images$"
    )
    with pytest.raises(
        RecipeError, match=rf"recipe\.yaml:6: tasks\.mood\.calibration: found the file x\.tsv, {expected}"
    ):
        images_of(pets, "    calibration: x.tsv\n")
    with pytest.raises(
        RecipeError, match=rf"recipe\.yaml:7: tasks\.mood\.evaluation: found the file x\.tsv, {expected}"
    ):
        images_of(pets, "    calibration: pets\n    evaluation: x.tsv\n    labels: [a, b]\n")
    with pytest.raises(InputError, match=r"x\.tsv: found the ending '\.tsv', expected a directory of images"):
        images_of(pets, "    calibration: {path: x.tsv}\n")
    message = (
        r"recipe\.yaml:6: tasks\.mood\.calibration\.texts: found it set, expected the key left out: "
        r"the base model reads images$"
    )
    with pytest.raises(RecipeError, match=message):
        images_of(pets, "    calibration: {dataset: org/x, texts: [sentence]}\n")


def test_the_digest_of_a_hubs_data_set_is_kept(pets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = {"image": [{"bytes": png(i), "path": None} for i in range(4)], "label": [0, 1, 0, 1]}
    kinds = datasets.Features({"image": datasets.Image(), "label": datasets.ClassLabel(names=["cat", "dog"])})
    monkeypatch.setattr(
        datasets, "load_dataset", lambda *args, **keys: datasets.Dataset.from_dict(rows, features=kinds)
    )
    task = images_of(
        pets, "    calibration: {dataset: org/pets}\n    evaluation: {dataset: org/pets}\n" + TEMPLATES
    )
    assert [*task.data] == ["dataset org/pets train", "dataset org/pets test"] and len(
        {*task.data.values()}
    ) == 1
    assert task.truth is not None and task.truth.tolist() == [0, 1, 0, 1]
