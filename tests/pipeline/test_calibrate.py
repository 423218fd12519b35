"""The stage as the command line runs it: models and a recipe on disk, a packed checkpoint on disk."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from safetensors.torch import load_file, save_file

from converters import open_family
from epmq_export.calibration.method import DEFAULT_METHOD
from epmq_export.errors import CalibrationError, InputError, RecipeError
from epmq_export.files import sha256
from epmq_export.installed import registry
from epmq_export.pipeline.calibrate import calibrate
from epmq_export.pipeline.job import Job
from epmq_export.pipeline.targets import targets
from epmq_export.pipeline.unrounded import unrounded
from epmq_export.recipe.load import load_recipe
from epmq_export.tensors.packed import Packed, PackedTensor
from tests.tiny.calibrated_bert import CPU, LETTERS, texts, tiny
from tests.tiny.in_memory import InMemory


@pytest.fixture(scope="module")
def recipe(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recipe of two tasks, one with labels, with its models."""
    place = tmp_path_factory.mktemp("project")
    model = tiny(place / "base")
    for directory, source in (("base", model.base), ("one", model.experts[0]), ("two", model.experts[1])):
        (place / directory).mkdir(exist_ok=True)
        save_file(
            {name: source.load(name) for name in source.names()}, place / directory / "model.safetensors"
        )
    (place / "calibration.txt").write_text("\n".join(texts(3, 12)) + "\n", encoding="utf-8")
    (place / "evaluation.tsv").write_text(
        "".join(f"{'ab'[i % 2]}\t{word}\n" for i, word in enumerate(LETTERS)), encoding="utf-8"
    )
    task = {"calibration": "calibration.txt", "evaluation": "evaluation.tsv"}
    content = {
        "base_model": "./base",
        "merge_method": "task_arithmetic",
        "tasks": {
            "first": {"expert": "./one", "labels": ["a", "b"], **task},
            "second": {"expert": "./two", **task},
        },
    }
    (place / "recipe.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return place / "recipe.yaml"


def run(
    path: Path,
    out: Path,
    resume: bool = False,
    progress: Callable[[str, int, int], None] = lambda text, done, total: None,
) -> Packed:
    job = Job.open(load_recipe(path), registry(), CPU)
    (target,) = targets(job.recipe, job.models.family, registry().formats, ["gguf"])
    return calibrate(job, out, target, resume, progress)


def digests(directory: Path) -> dict[str, str]:
    return {
        str(path.relative_to(directory)): sha256(path)
        for path in sorted(directory.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def whole(recipe: Path, tmp_path_factory: pytest.TempPathFactory) -> Packed:
    return run(recipe, tmp_path_factory.mktemp("whole") / "packed")


def test_everything_is_in_the_index(whole: Packed, recipe: Path) -> None:
    index = json.loads((whole.directory / "packed.json").read_text(encoding="utf-8"))
    assert (
        index["family"] == "bert"
        and index["method"]["name"] == DEFAULT_METHOD
        and index["method"]["rho"] > 1
        and index["recipe"]["base_model"] == "./base"
    )
    assert (
        len(index["layers"]) == 12
        and {layer["grid"] for layer in index["layers"]} == {"Q4_0"}
        and index["notes"] == []
    )
    assert sha256(recipe.parent / "one" / "model.safetensors") in {item["sha256"] for item in index["inputs"]}
    # The linears and the embeddings.
    assert sum(isinstance(whole.tensor(name), PackedTensor) for name in whole.names()) == 12 + 1
    assert [path.name for path in whole.directory.parent.iterdir()] == ["packed"]
    assert open_family(whole.directory).name == "bert"


def test_a_task_vector_that_is_much_longer_is_noted(recipe: Path, tmp_path: Path) -> None:
    """The first expert lies six times as far from the base."""
    content = yaml.safe_load(recipe.read_text())
    base, one = (load_file(recipe.parent / name / "model.safetensors") for name in ("base", "one"))
    far = recipe.parent / "far"
    far.mkdir()
    save_file({name: base[name] + 6 * (one[name] - base[name]) for name in one}, far / "model.safetensors")
    content["tasks"]["first"]["expert"] = "./far"
    content["calibration"] = {"samples": 4}
    path = recipe.with_name("far.yaml")
    path.write_text(yaml.safe_dump(content))
    (note,) = run(path, tmp_path / "packed").index.notes
    assert "times in length: ./far has the longest and ./two the shortest" in note


def test_the_model_before_rounding_is_that_of_a_calibration_in_full_precision(
    recipe: Path, whole: Packed, tmp_path: Path
) -> None:
    job = Job.open(load_recipe(recipe), registry(), CPU)
    told: list[int] = []
    found = unrounded(job, whole, tmp_path, lambda text, done, total: told.append(done))
    expected = calibrate(job, tmp_path / "full", None, False, lambda text, done, total: None)
    assert sorted(found.names()) == sorted(expected.names()) == sorted(whole.names())
    assert all(torch.equal(found.load(name), expected.load(name)) for name in found.names())
    assert any(not torch.equal(found.load(name), whole.load(name).float()) for name in found.names())
    assert told[-1] == 13


class Stop(Exception):
    """What Ctrl-C, a full disk or a killed machine would be."""


@pytest.mark.parametrize("block", [0, 1, 2, 3])
def test_an_interrupted_run_goes_on_to_the_same_bytes(
    recipe: Path, whole: Packed, tmp_path: Path, block: int
) -> None:
    out = tmp_path / "packed"
    steps = [0, 1, 7, 13]  # the steps that each of the three blocks begins with, and the end
    calls: list[int] = []

    def interrupt(text: str, done: int, total: int) -> None:
        if total and done == steps[block]:  # before the first step, inputs are hashed
            raise Stop

    def count(text: str, done: int, total: int) -> None:
        if total:
            calls.append(done)

    with pytest.raises(Stop):
        run(recipe, out, progress=interrupt)
    assert not out.exists() and len([*tmp_path.rglob("*.safetensors")]) == block
    again = run(recipe, out, resume=True, progress=count)
    assert digests(again.directory) == digests(whole.directory)
    assert [path.name for path in tmp_path.iterdir()] == ["packed"]
    assert min(calls) == steps[block]  # what was done is not done again


def interrupted(recipe: Path, out: Path) -> Path:
    """Where the two finished blocks of a run are."""

    def stop(text: str, done: int, total: int) -> None:
        if done == 9:
            raise Stop

    with pytest.raises(Stop):
        run(recipe, out, progress=stop)
    (blocks,) = out.parent.iterdir()
    assert len([*blocks.glob("*.safetensors")]) == 2
    return blocks


def test_a_run_of_another_recipe_is_not_gone_on_from(recipe: Path, tmp_path: Path) -> None:
    blocks = interrupted(recipe, tmp_path / "packed")
    other = recipe.with_name("other.yaml")
    content: dict[str, Any] = yaml.safe_load(recipe.read_text())
    other.write_text(yaml.safe_dump({**content, "calibration": {"alpha": 0.25}}))
    before = digests(blocks)
    with pytest.raises(
        RecipeError,
        match=(
            r"the interrupted run had another recipe, other inputs or other versions "
            r"\(calibration was not set and is \{\"alpha\": 0\.25\} in the recipe\); start again with "
            r"--overwrite"
        ),
    ):
        run(other, tmp_path / "packed", resume=True)
    assert digests(blocks) == before
    assert Packed(run(other, tmp_path / "packed").directory).index.method["alpha"] == 0.25


@pytest.mark.parametrize(
    "spoil",
    [b"", b"\x08\x00\x00\x00\x00\x00\x00\x00{}      ", None],
    ids=["empty", "without metadata", "cut"],
)
def test_a_finished_block_that_is_not_whole_is_named(
    recipe: Path, tmp_path: Path, spoil: bytes | None
) -> None:
    blocks = interrupted(recipe, tmp_path / "packed")
    path = blocks / "encoder.layer.0.safetensors"
    path.write_bytes(path.read_bytes()[:-10] if spoil is None else spoil)
    with pytest.raises(
        InputError,
        match=(
            r"encoder\.layer\.0\.safetensors: a finished block of the interrupted run cannot be read "
            r".*start again with --overwrite"
        ),
    ):
        run(recipe, tmp_path / "packed", resume=True)


def test_a_bad_number_in_an_expert_is_named_and_nothing_is_written(recipe: Path, tmp_path: Path) -> None:
    model = tiny(tmp_path / "base")
    for directory, source in (("base", model.base), ("one", model.experts[0])):
        (tmp_path / directory).mkdir(exist_ok=True)
        save_file(
            {name: source.load(name) for name in source.names()}, tmp_path / directory / "model.safetensors"
        )
    name = "encoder.layer.0.output.dense.weight"
    broken = InMemory({**model.experts[1].tensors, name: torch.full((64, 128), torch.nan)})
    (tmp_path / "two").mkdir()
    save_file({name: broken.load(name) for name in broken.names()}, tmp_path / "two" / "model.safetensors")
    for file in ("recipe.yaml", "calibration.txt", "evaluation.tsv"):
        (tmp_path / file).write_bytes((recipe.parent / file).read_bytes())
    with pytest.raises(
        InputError,
        match=(
            r"two: tensor encoder\.layer\.0\.output\.dense\.weight has 8192 values that are no finite "
            r"float32"
        ),
    ) as error:
        run(tmp_path / "recipe.yaml", tmp_path / "out" / "packed")
    assert "\n" not in str(error.value) and not (tmp_path / "out" / "packed").exists()


def test_tune_and_refine_leave_their_record_and_never_do_harm(recipe: Path, tmp_path: Path) -> None:
    other = recipe.with_name("searched.yaml")
    content: dict[str, Any] = yaml.safe_load(recipe.read_text())
    other.write_text(yaml.safe_dump({**content, "calibration": {"tune": True, "refine": 10}}))
    index = run(other, tmp_path / "packed").index
    trials = index.tune or []
    first, *rest = trials
    assert first["divergence"] == 1 and len(rest) >= 4
    (taken,) = [
        trial
        for trial in trials
        if all(index.method[key] == trial[key] for key in ("alpha", "rho", "damping"))
    ]
    assert taken["divergence"] <= 1.02 * min(trial["divergence"] for trial in trials)
    refined = index.refine or {}
    assert refined["after"] <= refined["before"] and 0 <= refined["step"] <= 10
    assert (refined["step"] == 0) == any("refine found nothing better" in note for note in index.notes)


def test_refine_takes_more_samples_than_the_layers(recipe: Path, tmp_path: Path) -> None:
    """Of four texts none could be held out. Where no data of its own judge a task, half of what is left
    teaches.
    """
    other = recipe.with_name("few.yaml")
    content: dict[str, Any] = yaml.safe_load(recipe.read_text())
    other.write_text(yaml.safe_dump({**content, "calibration": {"samples": 4, "refine": 2}}))
    assert run(other, tmp_path / "packed").index.refine is not None
    for task in content["tasks"].values():
        del task["evaluation"]
        task.pop("labels", None)
        task["calibration"] = "few.txt"
    (recipe.parent / "few.txt").write_text("\n".join(texts(3, 9)) + "\n", encoding="utf-8")
    other.write_text(yaml.safe_dump({**content, "calibration": {"samples": 4, "refine": 2}}))
    with pytest.raises(CalibrationError, match="refine holds out one sample in 8 and found 6"):
        run(other, tmp_path / "alone")


def test_what_was_searched_is_not_searched_again(recipe: Path, tmp_path: Path) -> None:
    other = recipe.with_name("interrupted.yaml")
    content: dict[str, Any] = yaml.safe_load(recipe.read_text())
    other.write_text(
        yaml.safe_dump(
            {
                **content,
                "calibration": {"tune": True},
                "quantization": {"bits": 5.5},
                "export": {"formats": ["gguf"]},
            }
        )
    )

    texts: list[str] = []
    whole = run(other, tmp_path / "two" / "packed", progress=lambda text, done, total: texts.append(text))
    assert any(text.startswith("tune: ") for text in texts)
    stopped = tmp_path / "one" / "packed"
    counted = 0

    def late(text: str, done: int, total: int) -> None:
        nonlocal counted
        counted += done == 9
        if counted == 2:  # of the rehearsal, then of the calibration
            raise Stop

    with pytest.raises(Stop):
        run(other, stopped, progress=late)
    texts.clear()
    again = run(other, stopped, resume=True, progress=lambda text, done, total: texts.append(text))
    assert not any(text.startswith("tune: ") for text in texts)
    assert digests(again.directory) == digests(whole.directory)
