"""Calibrations that are killed and go on: a short version of `python -m benchmarks.robustness.kills`."""

import os
import tempfile
from pathlib import Path

import pytest
import yaml

import epmq_export as epmq
from benchmarks.robustness.killing import calls, run
from epmq_export import files
from epmq_export.errors import RecipeError
from tests.command_line.command import tree
from tests.tiny.recipe_project import Project

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no forks")


@pytest.fixture(scope="module")
def recipe(project: Project, tmp_path_factory: pytest.TempPathFactory) -> Path:
    place = tmp_path_factory.mktemp("recipe") / "recipe.yaml"
    return project.one_task(place, evaluation=None, labels=None)


def test_a_killed_calibration_goes_on_to_the_same_bytes(
    recipe: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder, said, temporary = tmp_path / "folder", tmp_path / "said", tmp_path / "temporary"
    out = folder / "packed"
    folder.mkdir()
    temporary.mkdir()
    # What other tests have killed is cleared where it lies, by calls that no other run makes again.
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    count = calls(lambda: epmq.calibrate(recipe, out), said)
    wanted = tree(folder)
    assert wanted and {path.partition("/")[0] for path in wanted} == {"packed"}
    # The last one comes after the result has its name.
    for number in (count // 2, count - 12, count - 2):
        for path in folder.iterdir():
            files.remove(path)
        assert run(lambda: epmq.calibrate(recipe, out), said, before=number) == -9
        assert run(lambda: epmq.calibrate(recipe, out, resume=True), said) == 0, said.read_text()
        assert tree(folder) == wanted, number


def test_a_finished_calibration_is_gone_on_from_only_as_it_was(recipe: Path, tmp_path: Path) -> None:
    out = tmp_path / "packed"
    epmq.calibrate(recipe, out)
    before = tree(out)
    assert epmq.calibrate(recipe, out, resume=True).directory == out and tree(out) == before
    with pytest.raises(RecipeError, match=r"on Q4_0, expected no grid: it was calibrated for another format"):
        epmq.calibrate(recipe, out, format="safetensors", resume=True)
    other = recipe.with_name("other.yaml")
    other.write_text(yaml.safe_dump({**yaml.safe_load(recipe.read_text()), "calibration": {"samples": 8}}))
    told = r"\(calibration\.samples was 16 and is 8 in the recipe\): start again with --overwrite"
    with pytest.raises(RecipeError, match=told):
        epmq.calibrate(other, out, resume=True)
    assert tree(out) == before
