"""The same bytes from the same numbers, however they lie in files."""

from pathlib import Path

import yaml
from safetensors.torch import load_file, save_file

import epmq_export as epmq
from tests.tiny.recipe_project import Project


def test_inputs_in_shards_and_in_one_file_give_the_same_bytes(project: Project, tmp_path: Path) -> None:
    sharded, whole = project.directory / "sharded", tmp_path / "whole"
    whole.mkdir()
    shards = sorted(sharded.glob("*.safetensors"))
    assert len(shards) > 1
    tensors = {name: value for path in shards for name, value in load_file(path).items()}
    save_file(tensors, whole / "model.safetensors")
    (whole / "config.json").write_bytes((sharded / "config.json").read_bytes())
    found: list[list[bytes]] = []
    for expert in (sharded, whole):
        recipe = tmp_path / "recipe.yaml"
        project.one_task(recipe, expert=str(expert), evaluation=None, labels=None)
        content = yaml.safe_load(recipe.read_text())
        recipe.write_text(yaml.safe_dump({**content, "calibration": {"samples": 4}}))
        packed = epmq.calibrate(recipe, tmp_path / f"{expert.name}-packed").directory
        merged = epmq.merge(recipe, tmp_path / f"{expert.name}-merged")
        names = (packed / "packed.safetensors", merged / "model.safetensors", merged / "config.json")
        found.append([path.read_bytes() for path in names])
    assert found[0] == found[1]
