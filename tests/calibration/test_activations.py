import resource
import tempfile
from pathlib import Path

import pytest
import torch

from epmq_export.calibration.activations import Activations
from epmq_export.errors import OutputError


@pytest.fixture
def spills(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where temporary files go."""
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    return tmp_path


@pytest.mark.parametrize("bound", [0, 100, 250, 10_000])
def test_the_bound_changes_nothing_but_the_place(spills: Path, bound: int) -> None:
    values = {("input", "attention.self.query", t, b): torch.randn(2, 12) for t in range(3) for b in range(2)}
    with Activations(bound) as kept:
        for key, value in values.items():
            kept.put(key, value)
        assert kept.held <= bound
        assert len([*spills.rglob("*.safetensors")]) == 6 - min(bound // 96, 6)
        for key, value in values.items():
            assert torch.equal(kept.get(key), value)
        kept.drop(("input", "attention.self.query", 0, 0))
        kept.drop(("input", "attention.self.query", 2, 1))
        kept.drop(("input", "attention.self.query", 2, 1))  # twice is no error
        assert kept.held + sum(1 for _ in spills.rglob("*.safetensors")) * 96 >= 4 * 96
    assert [*spills.iterdir()] == []


def test_a_new_value_takes_the_place_of_the_old_wherever_that_was(spills: Path) -> None:
    with Activations(100) as kept:
        kept.put(("a",), torch.zeros(20))  # in memory
        kept.put(("b",), torch.zeros(20))  # on disk
        kept.put(("a",), torch.ones(40))  # too large now
        kept.put(("b",), torch.ones(20))  # there is room now
        assert kept.held == 80 and len([*spills.rglob("*.safetensors")]) == 1
        assert kept.get(("a",)).sum() == 40 and kept.get(("b",)).sum() == 20
        kept.drop(("a",))
        kept.drop(("b",))
        assert kept.held == 0 and [*spills.rglob("*.safetensors")] == []


def test_any_layout_and_dtype_comes_back(spills: Path) -> None:
    with Activations(0) as kept:
        kept.put(("t", 1), torch.arange(6).reshape(2, 3).T)
        assert kept.get(("t", 1)).tolist() == [[0, 3], [1, 4], [2, 5]]


def test_the_disk_is_cleared_after_an_error_too(spills: Path) -> None:
    with pytest.raises(KeyboardInterrupt), Activations(0) as kept:
        kept.put(("a",), torch.zeros(3))
        assert len([*spills.iterdir()]) == 1
        raise KeyboardInterrupt
    assert [*spills.iterdir()] == []


def test_a_full_disk_is_an_error_that_names_the_file(spills: Path) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, hard))  # the kernel refuses what goes past it, as a full disk would
    try:
        with pytest.raises(OutputError, match=r"epmq-activations-.*File too large"), Activations(0) as kept:
            kept.put(("a",), torch.zeros(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [*spills.iterdir()] == []
