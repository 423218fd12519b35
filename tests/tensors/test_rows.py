"""Rows of tensors, read without the rest: the bits are those of the whole, from every kind of checkpoint."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from epmq_export.errors import InputError
from epmq_export.tensors.checkpoint import Checkpoint, open_checkpoint
from epmq_export.tensors.source import Joined, only, row_reader
from tests.tiny.in_memory import InMemory
from tests.tiny.recipe_project import Project


def checkpoints(project: Project) -> list[Checkpoint]:
    base = open_checkpoint(project.directory / "base")
    experts = [open_checkpoint(path, base) for path in sorted(project.directory.glob("*")) if _is_model(path)]
    return [base, *experts]


def _is_model(path: Path) -> bool:
    return (path / "config.json").is_file() or (path / "adapter_config.json").is_file()


def test_rows_of_every_kind_of_checkpoint(project: Project) -> None:
    opened = checkpoints(project)
    assert {type(each).__name__ for each in opened} >= {"Weights", "Fitted"}
    for checkpoint in opened:
        for name in checkpoint.names():
            whole, read = checkpoint.load(name), row_reader(checkpoint, name)
            assert read is not None, (checkpoint.location, name)
            if whole.ndim:
                rows = read(1, whole.shape[0] - 1)
                assert rows.dtype == whole.dtype and torch.equal(rows, whole[1:-1]), (
                    checkpoint.location,
                    name,
                )


def test_a_source_that_reads_tensors_whole_has_no_reader() -> None:
    source = InMemory({"a": torch.zeros(2), "b": torch.zeros(2)})
    assert row_reader(source, "a") is None
    assert row_reader(Joined([only(source, ["a"]), only(source, ["b"])]), "b") is None


def test_a_tensor_that_is_not_there_is_named(tmp_path: Path) -> None:
    save_file({"w": torch.zeros(4, 2)}, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match="no tensor other"):
        row_reader(open_checkpoint(tmp_path), "other")
