"""The place of an output: it holds nothing that the job reads."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

import epmq_export as epmq
from epmq_export.errors import InputError, OutputError, RecipeError
from epmq_export.installed import registry
from epmq_export.pipeline.forecast import inventory as local
from epmq_export.pipeline.output import reserved
from tests.command_line.command import Result
from tests.tiny.bert import small_bert, small_packed
from tests.tiny.recipe_project import Project


@pytest.fixture
def own(project: Project, tmp_path: Path) -> Path:
    """A project of one's own, because a mistake would delete it."""
    return Path(shutil.copytree(project.directory, tmp_path / "own"))


def merge(own: Path, output: Path) -> None:
    epmq.merge(own / "recipe.yaml", output, overwrite=True)


def calibrate(own: Path, output: Path) -> None:
    epmq.calibrate(own / "recipe.yaml", output, overwrite=True)


@pytest.mark.parametrize("job", [merge, calibrate])
@pytest.mark.parametrize("place", ["base", "adapter", "data", "data/0.txt", ".", "link", "recipe.yaml"])
def test_what_a_recipe_reads_is_not_overwritten(
    job: Callable[[Path, Path], None], place: str, own: Path
) -> None:
    (own / "link").symlink_to("whole")
    before = sorted(own.rglob("*"))
    with pytest.raises(RecipeError, match=r"which the output would replace|as the output") as caught:
        job(own, own / place)
    assert str(caught.value).startswith(f"{own / place}: found {own}/")
    assert sorted(own.rglob("*")) == before


def test_an_output_among_the_inputs_is_one(own: Path) -> None:
    """Only what it replaces counts."""
    assert epmq.merge(own / "recipe.yaml", own / "base" / "merged") == own / "base" / "merged"
    assert (own / "base" / "model.safetensors").exists()


def test_a_run_replaces_only_its_own_parts(own: Path) -> None:
    shutil.move(own / "base", own / "gguf")
    recipe = own / "recipe.yaml"
    recipe.write_text(recipe.read_text(encoding="utf-8").replace("./base", "./gguf"), encoding="utf-8")
    with pytest.raises(RecipeError, match=f"{own}: found {own}/gguf as the output"):
        epmq.run(recipe, own, overwrite=True)
    assert (own / "gguf" / "model.safetensors").exists()


def test_a_packed_checkpoint_is_not_replaced_by_its_export(tmp_path: Path) -> None:
    packed, _ = small_packed(tmp_path / "gguf", small_bert(tmp_path / "model"))
    with pytest.raises(RecipeError, match="which is read, expected another place"):
        epmq.export(packed, tmp_path, formats=["gguf"], overwrite=True)
    assert (tmp_path / "gguf" / "packed.json").exists()


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="the system has no pipes with names")
def test_a_pipe_is_no_directory_and_no_recipe(own: Path) -> None:
    os.mkfifo(own / "pipe")
    with pytest.raises(OutputError, match="pipe: found a stream, expected the place of a directory"):
        merge(own, own / "pipe")
    with pytest.raises(RecipeError, match="pipe: found a pipe, expected a file"):
        epmq.load_recipe(own / "pipe")
    assert (own / "pipe").is_fifo()


def test_a_report_takes_no_directory_away(ran: tuple[Path, Result], tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.txt").touch()
    with pytest.raises(OutputError, match="data: found a directory, expected the place of a file"):
        epmq.verify(ran[0], report=tmp_path / "data")
    assert (tmp_path / "data" / "mine.txt").exists()


@pytest.mark.parametrize(
    "job", [merge, calibrate, lambda own, place: epmq.run(own / "recipe.yaml", place, overwrite=True)]
)
def test_what_is_no_output_is_not_replaced(
    job: Callable[[Path, Path], None], own: Path, tmp_path: Path
) -> None:
    mine = tmp_path / "mine"
    mine.mkdir()
    (mine / "README.md").write_text("precious")
    with pytest.raises(RecipeError, match=r"mine: found .*README.md .*, expected .*another place"):
        job(own, mine)
    assert [path.read_text() for path in mine.iterdir()] == ["precious"]


def test_an_existing_output_is_told_first(own: Path) -> None:
    with pytest.raises(RecipeError, match="exists: give another place, or --overwrite"):
        epmq.merge(own / "recipe.yaml", own)


def test_what_lies_where_the_program_runs_is_no_model_of_a_recipe(
    own: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """`whole` beside the recipe would be a directory; elsewhere it is an id of the hub."""
    (own / "recipes").mkdir()
    recipe = own / "recipes" / "recipe.yaml"
    recipe.write_text("models: [{model: whole}]\nmerge_method: linear\n", encoding="utf-8")
    monkeypatch.chdir(own)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match=r"^whole: no directory .*/recipes/whole, and the Hugging Face hub"):
        epmq.merge(recipe, tmp_path / "merged")
    loaded = epmq.load_recipe(recipe)
    assert not local.models(loaded, registry().open_gguf)[0].whole
    with reserved(own / "whole", loaded, replaced=True):
        pass  # It is no input, so it may be replaced.
