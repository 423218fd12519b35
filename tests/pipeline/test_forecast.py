"""What a dry run says, held against what a run does."""

import json
import time
from collections import Counter
from dataclasses import replace
from math import prod
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml

from converters import open_family
from epmq_export.calibration.refinement import LESSONS
from epmq_export.calibration.rounding import store
from epmq_export.errors import InputError, RecipeError
from epmq_export.grids.layout import Layout
from epmq_export.installed import registry
from epmq_export.merging.registry import RULES
from epmq_export.pipeline.forecast import around
from epmq_export.pipeline.forecast import forecast as forecasts
from epmq_export.pipeline.forecast.costs import Samples
from epmq_export.pipeline.forecast.forecast import Forecaster
from epmq_export.pipeline.forecast.planned import planned_tensors, tensor_shapes
from epmq_export.pipeline.forecast.record import Forecast
from epmq_export.pipeline.forecast.samples import lessons_here
from epmq_export.recipe.load import load_recipe
from epmq_export.tensors import packed_writer as packing
from epmq_export.tensors.checkpoint import open_checkpoint
from epmq_export.tensors.packed import Packed
from epmq_export.tensors.source import Passed, TypedSource, renamed
from formats.gguf.format import Gguf
from formats.onnx.format import OnnxQdq
from tests.command_line.command import Result, Warm
from tests.tiny import recipe_project
from tests.tiny.clip import clip
from tests.tiny.merges import needed
from tests.tiny.packed_index import an_index

CPU = torch.device("cpu")
FORMATS = {"gguf": Gguf(), "onnx": OnnxQdq()}


class Installed:
    copies = 3.0

    def version(self) -> str:
        return "1"


def forecast(path: Path) -> Forecast:
    runtimes: Any = dict.fromkeys(("llama.cpp", "clip.cpp", "onnxruntime"), Installed())
    return Forecaster(replace(registry(), runtimes=runtimes), CPU).forecast(load_recipe(path))


@pytest.mark.parametrize("rule", RULES)
def test_every_rule_has_a_forecast(tmp_path: Path, rule: str) -> None:
    models = [{"model": f"org/expert-{index}"} for index in range(RULES[rule].experts[0])]
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(
        yaml.safe_dump(
            {
                "base_model": "org/not-here",
                "merge_method": rule,
                "models": models,
                "parameters": needed(rule),
            }
        )
    )
    found = forecast(recipe).merge
    assert found.startswith(f"{rule}: ") and "{" not in found and len(found) > len(rule) + 2


# Against a real run.


def test_sizes_and_linears_are_those_of_the_run(
    ran: tuple[Path, Result], project: recipe_project.Project
) -> None:
    output, found = ran[0], forecast(project.recipe)
    assert {f"{file.format}/{file.path}" for file in found.files} == {
        "gguf/base-merged-Q4_0.gguf",
        "onnx/onnx/model_q4.onnx",
    }
    for file in found.files:
        assert (
            file.bytes
            == sum(file.types.values())
            == pytest.approx((output / file.format / file.path).stat().st_size, rel=0.01)
        )
    report = json.loads((output / "report.json").read_text())
    by_type = report["files"][0]["notes"]["tensor_bytes"]
    assert {kind: size for kind, size in found.files[0].types.items() if kind != "rest"} == by_type
    packed = Packed(output / "packed")
    grids = {name: grid.name for name, grid in packed.grids.items()}
    assert grids.pop(rows := "embeddings.word_embeddings.weight") == "Q8_0"
    assert found.work is not None and found.work.embeddings == prod(packed.shape(rows))
    assert found.grids["gguf"] == found.grids["onnx"] == grids
    assert len(found.grids["gguf"]) == 18
    assert (
        found.samples is not None
        and found.samples.exact
        and (found.samples.tasks, found.samples.samples) == (4, 64)
    )
    assert found.passes["batches"] == 4 and found.passes["experts"] == 4 * 4  # a stem and three layers


def test_other_grids_and_kept_tensors(cls_ran: Path) -> None:
    found = forecast(cls_ran.parent / "recipe.yaml")
    for file in found.files:
        assert file.bytes == pytest.approx((cls_ran / file.format / file.path).stat().st_size, rel=0.02)
    assert sorted(found.grids["gguf"].values()) == ["F16", "F16", "Q4_0", "Q4_0", "Q4_0", "Q4_0"]
    assert any("intermediate" in note for note in found.notes)


# What is here and what is not.


@pytest.fixture
def cached(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A snapshot of org/clip in a cache of the hub's own layout."""
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    folder = tmp_path / "hub" / "models--org--clip"
    (folder / "refs").mkdir(parents=True)
    (folder / "refs" / "main").write_text("0" * 40)
    return clip(folder / "snapshots" / ("0" * 40))


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    images = {"dataset": "org/pictures", "split": "train", "images": "image", "labels": "label"}
    task = {
        "expert": "org/expert",
        "calibration": images,
        "evaluation": {**images, "split": "test"},
        "templates": ["a {}."],
    }
    content = {
        "base_model": "org/clip",
        "merge_method": "task_arithmetic",
        "tasks": {"one": task},
        "export": {"formats": ["gguf"]},
    }
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content))
    return tmp_path / "recipe.yaml"


def test_a_config_in_the_cache_is_enough(cached: Path, recipe: Path) -> None:
    whole = forecast(recipe)
    (cached / "model.safetensors").unlink()
    found = forecast(recipe)
    assert found.family == "clip" and found.files == whole.files and found.memory == whole.memory
    states = {place.role: place.sentence for place in [*found.models, *found.data]}
    assert states == {
        "base": "not here but for its config: will be downloaded",
        "expert of one": "not here: will be downloaded",
        "calibration of one": "not here: will be downloaded",
        "evaluation of one": "not here: will be downloaded",
    }
    assert whole.models[0].sentence == "here"
    assert found.unknown[0] == "the base's weights are not here: shapes are those of its config"
    assert found.samples == Samples(1, 64, 17.0, False)  # 16 patches and the class token


def test_the_size_of_a_clip_file(cached: Path, recipe: Path, tmp_path: Path) -> None:
    """Both towers: of the text tower the linears are halves, and of the image tower's convolution too."""
    family = open_family(cached)
    source = renamed(open_checkpoint(cached), family.canonical)
    shapes = tensor_shapes(family)
    assert shapes == {name: source.shape(name) for name in source.names()}
    planned = planned_tensors(family, shapes, Layout(), [])
    tensors = {name: store(name, source.load(name).float(), each.storage) for name, each in planned.items()}
    packing.write(tmp_path / "packed", tensors, an_index(), cached)
    (tmp_path / "gguf").mkdir()
    written = Gguf().write(Packed(tmp_path / "packed"), family, tmp_path / "gguf")
    (file,) = forecast(recipe).files
    assert file.bytes == pytest.approx(written.stat().st_size, rel=0.01)
    assert len(forecast(recipe).grids["gguf"]) == 12 * 6


def test_nothing_is_said_of_a_base_that_is_not_here(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "empty"))
    found = forecast(recipe)
    assert found.family is found.memory is found.time is found.samples is None and not found.files
    assert found.unknown[0].startswith("base: not here: family, grids, sizes, memory and time are not known")


def test_what_a_run_would_refuse_is_refused(
    project: recipe_project.Project, cached: Path, recipe: Path, tmp_path: Path
) -> None:
    recipe_project.base(tmp_path / "other", width=64, layers=2)
    with pytest.raises(InputError, match="does not fit the base"):
        forecast(project.one_task(tmp_path / "one.yaml", expert=str(tmp_path / "other")))
    with pytest.raises(RecipeError, match=r"two.yaml:\d+: parameters.density: .* is 2, expected a share"):
        forecast(project.variant(tmp_path / "two.yaml", merge_method="ties", parameters={"density": 2}))
    (cached / "config.json").write_text("{")
    with pytest.raises(InputError, match="not readable as JSON"):
        forecast(recipe)


def test_texts_of_tables_are_counted_and_those_of_the_hub_are_not_asked_for(
    project: recipe_project.Project, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "x.jsonl").write_text('{"a": "one", "b": "two"}\n{"a": "three", "b": "four"}\n')
    pairs = {"texts": ["a", "b"]}
    task = {
        "prompt": "{a} {b}",
        "evaluation": None,
        "labels": None,
        "calibration": {**pairs, "path": str(tmp_path / "x.jsonl")},
    }
    path = project.one_task(tmp_path / "r.yaml", **task)
    path.write_text(path.read_text().replace("samples: 16", "samples: 1"))
    found = forecast(path)
    assert found.samples is not None and found.samples.exact and found.samples.samples == 1
    assert [place.name for place in found.data] == ["x.jsonl"]
    # Even where the cache has the data set: the library would look for news.
    cache = tmp_path / "hub" / "datasets--org--pairs"
    (cache / "snapshots" / ("0" * 40)).mkdir(parents=True)
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("0" * 40)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    found = forecast(
        project.one_task(
            tmp_path / "r.yaml",
            **{**task, "calibration": {**pairs, "dataset": "org/pairs", "config": "small"}},
        )
    )
    assert [(place.role, place.name, place.sentence) for place in found.data] == [
        ("calibration of list", "org/pairs small", "here")
    ]
    assert found.samples is not None and not found.samples.exact
    assert "the data are not read: 16 samples a task are assumed, as the recipe asks" in found.unknown
    with pytest.raises(
        RecipeError,
        match=r"calibration\.images: found it set, expected the key left out: the base model reads texts$",
    ):
        forecast(
            project.one_task(
                tmp_path / "r.yaml",
                evaluation=None,
                labels=None,
                calibration={"dataset": "org/pairs", "images": "image"},
            )
        )


def test_a_model_in_this_process_is_part_of_verifying(project: recipe_project.Project) -> None:
    """A model that a runtime in this process holds counts as often as the runtime says, and no other."""
    found = forecast(project.recipe)
    sizes = {file.format: file.bytes for file in found.files}
    assert found.verify is not None
    assert found.verify.runtime == 3 * max(sizes.values())
    held = found.verify.outputs + max(found.verify.reference, found.verify.runtime)
    assert found.verify.peak == int(1.2 * held)
    own = replace(found, verify=None)
    assert own.as_dict()["verify"] is None and found.as_dict()["verify"]["peak"] == found.verify.peak


def test_refining_is_said_where_it_is_asked_for(project: recipe_project.Project, tmp_path: Path) -> None:
    assert forecast(project.recipe).refine is None
    found = forecast(project.variant(tmp_path / "r.yaml", calibration={"effort": "best", "samples": 16}))
    assert found.refine is not None and found.refine.steps == 1200
    assert found.refine.memory > 25 * 18 * 64 * 64


def test_what_is_refined_on_counts_samples_beside_those_of_the_layers(
    project: recipe_project.Project, tmp_path: Path
) -> None:
    recipe = load_recipe(project.variant(tmp_path / "r.yaml", calibration={"samples": 64}))
    family = open_family(project.directory / "base")
    tasks: list[Any] = [SimpleNamespace(further=["a", "b"]), SimpleNamespace(further=["c"])]
    known = Samples(tasks=2, samples=128, tokens=5.0, exact=True)
    assert lessons_here(recipe, family, tasks, known).samples == 131
    unknown = replace(known, exact=False)
    assert lessons_here(recipe, family, [], unknown).samples == 2 * LESSONS


def test_time_counts_every_calibration(project: recipe_project.Project, tmp_path: Path) -> None:
    recipe = load_recipe(
        project.variant(tmp_path / "r.yaml", quantization={"bits": 4.7}, calibration={"tune": True})
    )
    assert forecasts.calibrations_of(recipe, 2) == (2 * 8, 2 * 16)
    assert forecasts.calibrations_of(load_recipe(project.recipe), 1) == (1, 1)
    scored = load_recipe(project.variant(tmp_path / "s.yaml", verify={"unrounded": True}))
    assert forecasts.calibrations_of(scored, 2) == (3, 3)


def test_the_whole_run_is_what_is_known_of_its_stages(
    project: recipe_project.Project, tmp_path: Path
) -> None:
    found = forecast(project.recipe)
    assert found.around is not None and found.around.merge is not None and found.time is not None
    assert 0 < found.around.merge[0] < found.around.merge[1]
    assert found.seconds is not None
    assert found.seconds[0] == pytest.approx(found.time.seconds[0] + found.around.whole[0])
    assert found.as_dict()["seconds"] == found.seconds
    chosen = forecast(project.variant(tmp_path / "r.yaml", quantization={"bits": 4.7}))
    assert chosen.around is chosen.seconds is None
    assert "the merge, writing and scoring are not part of the time" in chosen.unknown


def test_a_merge_is_tried_on_some_of_its_weights(
    project: recipe_project.Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(around, "TRIAL", 0.01)
    recipe = load_recipe(project.recipe)
    family = open_family(project.directory / "base")
    base = renamed(open_checkpoint(project.directory / "base"), family.canonical)
    loaded = Counter[str]()

    class Slow(Passed):
        def load(self, name: str) -> torch.Tensor:
            loaded[name] += 1
            time.sleep(around.TRIAL)
            return super().load(name)

    experts: dict[str, TypedSource] = {model.model: Slow(base) for model in recipe.experts}
    names = [name for name in base.names() if name.endswith("dense.weight")]
    numbers = 3 * torch.Size(base.shape(names[0])).numel()
    seconds = around.merging(recipe, base, experts, names, numbers)
    assert [*loaded] == names[:1]
    assert seconds >= 3 * around.TRIAL * len(experts)


# The command.


def test_a_dry_run_writes_nothing(epmq: Warm, project: recipe_project.Project, tmp_path: Path) -> None:
    result = epmq("run", "--dry-run", project.recipe, folder=tmp_path)
    assert result.code == 0, result.stderr
    for part in (
        "expert of mapping",
        "tsvm: 4 singular value decompositions",
        "task vectors",
        "of the base's length",
        "18 linears on Q4_0",
        "gguf/base-merged-Q4_0.gguf",
        "peak memory: about",
        "verify: about",
        "is the model in its runtime",
        "calibration: roughly",
        "the whole run: roughly",
    ):
        assert part in result.stdout
    as_json = epmq("run", "--dry-run", project.recipe, "--json", "--device", "cpu", folder=tmp_path).json
    assert [place["state"] for place in as_json["models"]] == ["here"] * 5
    assert "(measured on 6 linears in the middle)" in as_json["task_vectors"]
    assert as_json["memory"]["peak"] > 0 and len(as_json["grids"]["gguf"]) == 18
    assert not list(tmp_path.iterdir())


def test_a_dry_run_fails_as_the_run_would(
    epmq: Warm, project: recipe_project.Project, tmp_path: Path
) -> None:
    assert (
        "did you mean"
        in epmq(
            "run", "--dry-run", project.variant(tmp_path / "r.yaml", calibratoin={}), folder=tmp_path
        ).error
    )
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").touch()
    result = epmq("run", "--dry-run", project.recipe, "-o", "out", folder=tmp_path)
    assert result.code == 2 and result.error.startswith("out exists: ")
    (tmp_path / "none.txt").write_text("\n")
    result = epmq(
        "run",
        "--dry-run",
        project.one_task(tmp_path / "t.yaml", calibration=str(tmp_path / "none.txt")),
        folder=tmp_path,
    )
    assert result.code == 3 and "found no text" in result.error
    assert (
        epmq("run", project.recipe, folder=tmp_path).error
        == "--output: found nothing, expected the directory to write"
    )
    assert epmq("run", project.recipe, "-o", "o", "--json", folder=tmp_path).error.startswith(
        "--json: found it without --dry-run"
    )
