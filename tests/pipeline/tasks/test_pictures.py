"""Tasks of pictures with their data."""

from collections.abc import Sequence
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from epmq_export.data.task import Task
from epmq_export.errors import InputError, RecipeError
from epmq_export.models.samples import Sample, digest, picture_of
from tests.pipeline.tasks.read import PICTURES, tasks_of
from tests.tiny.image_files import folders, png, put


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
