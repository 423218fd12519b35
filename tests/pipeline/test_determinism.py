"""The same bytes from the same numbers, however they lie in files, once and again. Interrupted runs are in
test_kills.py beside this file.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
import yaml
from safetensors.torch import load_file, save_file

import epmq_export as epmq
from tests.tiny.recipe_project import Project


@contextmanager
def threads(count: int) -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(count)
    yield
    torch.set_num_threads(before)


def written(project: Project, expert: Path, out: Path, *, merge: bool) -> list[bytes]:
    """Return the files of a calibration, and of a merge where that is asked for."""
    out.mkdir()
    recipe = out.parent / "recipe.yaml"
    project.one_task(recipe, expert=str(expert), evaluation=None, labels=None)
    content = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump({**content, "calibration": {"samples": 4}}))
    names = [epmq.calibrate(recipe, out / "packed").directory / "packed.safetensors"]
    if merge:
        merged = epmq.merge(recipe, out / "merged")
        names += [merged / "model.safetensors", merged / "config.json"]
    return [path.read_bytes() for path in names]


def test_inputs_in_shards_and_in_one_file_give_the_same_bytes(project: Project, tmp_path: Path) -> None:
    """On one thread and on two. Another number of threads may give other bytes."""
    sharded, whole = project.directory / "sharded", tmp_path / "whole"
    whole.mkdir()
    shards = sorted(sharded.glob("*.safetensors"))
    assert len(shards) > 1
    tensors = {name: value for path in shards for name, value in load_file(path).items()}
    save_file(tensors, whole / "model.safetensors")
    (whole / "config.json").write_bytes((sharded / "config.json").read_bytes())
    for count in (1, 2):
        with threads(count):
            first = written(project, sharded, tmp_path / f"sharded-{count}", merge=count == 1)
            assert written(project, whole, tmp_path / f"whole-{count}", merge=count == 1) == first
