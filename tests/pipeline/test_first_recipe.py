"""`epmq init`: a first recipe from what is there, which runs as it stands where the data are there."""

import json
import shutil
import warnings
from pathlib import Path

import pytest
import yaml

import epmq_export
from epmq_export.data.nearby import Nearby, find_data
from epmq_export.errors import InputError, RecipeError
from epmq_export.merging.registry import RULES
from epmq_export.pipeline.first_recipe import _RULES as FIRST_RULES
from epmq_export.recipe.load import load_recipe
from tests.tiny import decoder, recipe_project, vit
from tests.tiny.built_once import built_once


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with a base, two experts and the data of both."""

    def build(place: Path) -> None:
        base = recipe_project.base(place / "base", width=64, layers=1)
        recipe_project.full_expert(place / "experts" / "mood", base, 1)
        with warnings.catch_warnings():
            # of transformers, on PEFT's doing
            warnings.filterwarnings("ignore", "`is_gradient_checkpointing` is deprecated", FutureWarning)
            recipe_project.lora_expert(place / "experts" / "topic: 1", base, 2)
        found = recipe_project.data(place / "made")
        (place / "data" / "topic: 1").mkdir(parents=True)
        shutil.copy(found / "1.txt", place / "data" / "mood.txt")
        shutil.copy(found / "1.tsv", place / "data" / "mood.test.tsv")
        shutil.copy(found / "2.txt", place / "data" / "topic: 1" / "train.txt")

    shutil.copytree(built_once("first-recipe", build), tmp_path / "project")
    return tmp_path / "project"


def test_a_first_recipe_runs_as_it_stands(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    path = epmq_export.init("base", ["experts/mood", "experts/topic: 1"], "recipes/first.yaml")
    text = path.read_text()
    assert text.startswith("# yaml-language-server: $schema=recipe.schema.json\n")
    assert json.loads((path.parent / "recipe.schema.json").read_text()) == epmq_export.recipe_schema()
    written = yaml.safe_load(text)
    assert written["base_model"] == "../base"
    assert written["tasks"] == {
        "mood": {
            "expert": "../experts/mood",
            "calibration": "../data/mood.txt",
            "evaluation": "../data/mood.test.tsv",
            "labels": {"c0": "c0", "c1": "c1", "c2": "c2"},
        },
        "topic: 1": {"expert": "../experts/topic: 1", "calibration": "../data/topic: 1/train.txt"},
    }
    # All 40 texts of the task without evaluation would leave none to judge by.
    assert written["calibration"]["samples"] == 20
    assert "family bert, which embeds texts" in text and "# 60 texts with 3 labels" in text
    assert [line.strip() for line in text.splitlines() if "LoRA" in line] == [
        "expert: '../experts/topic: 1'  # a LoRA adapter"
    ]
    found = epmq_export.forecast(path)
    assert found.family == "bert" and all(model.whole for model in found.models)


def test_what_is_not_found_is_marked(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "empty").mkdir()
    path = epmq_export.init("base", ["experts/mood", "org/mood@main"], data="empty")
    assert path.read_text().count("# TODO: no texts were found") == 2
    assert (
        "expert: org/mood@main  # TODO: not on this machine, so it is taken for an id of the hub"
        in path.read_text()
    )
    assert list(yaml.safe_load(path.read_text())["tasks"]) == ["mood", "mood-2"]
    with pytest.raises(RecipeError, match=r"tasks\.mood\.calibration: found no file 'empty/mood\.txt'"):
        epmq_export.forecast(path)
    with pytest.raises(RecipeError, match="exists"):
        epmq_export.init("base", ["experts/mood"])
    with pytest.raises(InputError, match="experts/moot: no such directory, did you mean 'experts/mood'"):
        epmq_export.init("base", ["experts/moot"], "other.yaml")
    with pytest.raises(InputError, match="nowhere: no such directory"):
        epmq_export.init("base", ["experts/mood"], "other.yaml", data="nowhere")


def test_links_stay_as_the_user_named_them(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "linked").symlink_to(folder / "base")
    (folder / "mood").symlink_to(folder / "experts" / "topic: 1")
    written = yaml.safe_load(epmq_export.init("linked", ["experts/../mood"]).read_text())
    assert written["base_model"] == "./linked"
    assert written["tasks"]["mood"]["expert"] == "./mood"
    assert set(FIRST_RULES) <= set(RULES)


def test_data_that_cannot_be_read_say_why(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    (folder / "data" / "mood.test.tsv").write_bytes(b"\xff\xfe")
    text = epmq_export.init("base", ["experts/mood"]).read_text()
    assert "evaluation: data/mood.test.tsv  # TODO: " in text and "labels:" not in text


def test_a_language_model_answers_with_labels(tmp_path: Path) -> None:
    base = decoder.write(tmp_path / "base", "qwen2")
    shutil.copytree(base, tmp_path / "mood")
    shutil.copytree(base, tmp_path / "facts")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mood.txt").write_text("\n".join(decoder.LINES))
    (tmp_path / "data" / "mood.tsv").write_text("yes\tit is good\nno\tit is bad\n")
    (tmp_path / "data" / "facts.jsonl").write_text('{"text": "what is that ?"}\n{"text": "the cat sat"}\n')
    (tmp_path / "data" / "facts.test.jsonl").write_text(
        "\n".join(json.dumps({"text": f"what is {n} ?", "label": str(n)}) for n in range(60))
    )
    path = epmq_export.init(base, [tmp_path / "mood", tmp_path / "facts"], tmp_path / "recipe.yaml")
    recipe = load_recipe(path)
    assert (
        recipe.tasks["mood"].labels == {"no": "no", "yes": "yes"}
        and recipe.tasks["facts"].metric == "spearman"
    )
    assert "which writes text" in path.read_text() and path.read_text().count("TODO: the prompt") == 2


def test_images_are_found_by_folders(tmp_path: Path) -> None:
    base = vit.vit(tmp_path / "base")
    for part, name in (("train", "cat"), ("train", "dog"), ("test", "cat"), ("test", "dog")):
        place = tmp_path / "data" / "pets" / part / name
        place.mkdir(parents=True)
        (place / "1.png").write_bytes(b"no image is decoded here" + part.encode() + name.encode())
    shutil.copytree(base, tmp_path / "pets")
    text = epmq_export.init(base, [tmp_path / "pets"], tmp_path / "recipe.yaml").read_text()
    assert yaml.safe_load(text)["tasks"]["pets"] == {
        "expert": "./pets",
        "calibration": "data/pets/train",
        "evaluation": "data/pets/test",
    }
    assert "# 2 images with 2 labels" in text and "# labels: [cat, dog]" in text
    (tmp_path / "data").rename(tmp_path / "elsewhere")
    text = epmq_export.init(base, [tmp_path / "pets"], tmp_path / "bare.yaml").read_text()
    assert "# evaluation: test          # a folder of images for each label" in text and "TAB" not in text


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        (["a.txt"], ("a.txt", None)),
        (["a.txt", "a.tsv"], ("a.txt", "a.tsv")),
        (["a.csv.gz"], ("a.csv.gz", None)),
        (["a-train.jsonl", "a-valid.jsonl", "a-test.jsonl"], ("a-train.jsonl", "a-test.jsonl")),
        (["a/train.txt", "a/dev.tsv", "a/vocab.txt"], ("a/train.txt", "a/dev.tsv")),
        (["a.test.tsv"], (None, "a.test.tsv")),
        (["ab.txt", "b.txt", "a.md"], (None, None)),
    ],
)
def test_names_say_what_data_are_for(
    files: list[str], expected: tuple[str | None, str | None], tmp_path: Path
) -> None:
    for name in files:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    one, other = (None if name is None else tmp_path / name for name in expected)
    assert find_data("a", [tmp_path / "nothing", tmp_path], images=False) == Nearby(one, other)
