"""A source whose tensors are computed once and kept on disk."""

import gc
import tempfile
from pathlib import Path

import pytest
import torch
from torch import Tensor

from epmq_export.tensors.cached import Kept
from tests.tiny.in_memory import InMemory


class Counted(InMemory):
    loads = 0

    def load(self, name: str) -> Tensor:
        self.loads += 1
        return super().load(name)


@pytest.fixture
def spills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


def test_each_tensor_is_computed_once_and_is_the_callers_own(spills: Path) -> None:
    source = Counted(
        {"a.weight": torch.randn(3, 4).T, "b": torch.arange(5), "half": torch.randn(2).bfloat16()}
    )
    kept = Kept(source)
    assert kept.names() == source.names()
    assert [*spills.iterdir()] == []  # nothing is written before something is read
    for name in source.names():
        assert (kept.shape(name), kept.dtype(name)) == (source.shape(name), source.dtype(name))
        kept.load(name).zero_()
        assert torch.equal(kept.load(name), source.tensors[name])
    assert source.loads == 3


def test_the_files_go_with_it(spills: Path) -> None:
    kept = Kept(InMemory({"a": torch.ones(2)}))
    kept.load("a")
    assert len([*spills.rglob("*.safetensors")]) == 1
    del kept
    gc.collect()
    assert [*spills.iterdir()] == []
