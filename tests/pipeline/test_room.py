"""A job that its disk has no room for ends before the work."""

import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import epmq_export as epmq
from epmq_export.errors import OutputError
from epmq_export.installed import registry
from epmq_export.pipeline.job import Job
from epmq_export.pipeline.room import packed_bytes, require_room_to_run
from epmq_export.pipeline.targets import targets
from epmq_export.recipe.load import load_recipe
from epmq_export.tensors.packed import Packed, exported_bytes
from tests.tiny.recipe_project import Project

TOLD = r"out: found 0\.0003 GB left on its disk, expected at least 0\.\d+ GB for what is written there$"


@pytest.fixture(scope="module")
def recipe(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    return project.one_task(place, evaluation=None, labels=None)


@pytest.fixture(scope="module")
def packed(recipe: Path) -> Packed:
    return epmq.calibrate(recipe, recipe.with_name("packed"))


@pytest.fixture
def full(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave no disk more than 300 kB."""
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=300_000))


def test_the_room_of_a_packed_checkpoint_is_known(recipe: Path, packed: Packed) -> None:
    job = Job.open(load_recipe(recipe), registry(), torch.device("cpu"))
    (target,) = targets(job.recipe, job.models.family, registry().formats, job.formats)
    size = (packed.directory / "packed.safetensors").stat().st_size
    assert 0.95 * size < packed_bytes(job, target) < size
    assert packed_bytes(job, None) > 3 * size


def test_the_room_of_files_is_no_more_than_they_take(packed: Packed, tmp_path: Path) -> None:
    (file,) = epmq.export(packed, tmp_path / "out", formats=["gguf"])
    needed = sum(exported_bytes(packed.shape(name), packed.storage(name)) for name in packed.names())
    assert 0.9 * file.stat().st_size < needed < file.stat().st_size


@pytest.mark.usefixtures("full")
@pytest.mark.parametrize("command", [epmq.run, epmq.calibrate, epmq.merge])
def test_it_is_told_before_the_work(
    command: Callable[[Path, Path], object], recipe: Path, tmp_path: Path
) -> None:
    with pytest.raises(OutputError, match=TOLD):
        command(recipe, tmp_path / "out")
    assert not any(path.is_file() for path in tmp_path.rglob("*"))


@pytest.mark.usefixtures("full")
def test_it_is_told_before_files_are_written(packed: Packed, tmp_path: Path) -> None:
    with pytest.raises(OutputError, match=TOLD):
        epmq.export(packed, tmp_path / "out")
    assert [*tmp_path.iterdir()] == []


@pytest.mark.usefixtures("full")
def test_what_is_to_be_replaced_stays_where_there_is_no_room(recipe: Path, tmp_path: Path) -> None:
    """It counts as room: with one old file of 400 kB less is lacking, and with one of 40 MB nothing."""
    old = tmp_path / "out" / "report.json"
    old.parent.mkdir()
    old.write_bytes(bytes(400_000))
    with pytest.raises(OutputError, match=TOLD):
        epmq.run(recipe, old.parent, overwrite=True)
    assert old.stat().st_size == 400_000
    job = Job.open(load_recipe(recipe), registry(), torch.device("cpu"))
    asked = targets(job.recipe, job.models.family, registry().formats, job.formats)
    with pytest.raises(OutputError, match=TOLD):
        require_room_to_run(job, old.parent, asked)
    old.write_bytes(bytes(40_000_000))
    require_room_to_run(job, old.parent, asked, [old])
