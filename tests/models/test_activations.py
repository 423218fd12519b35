"""Calibration activations in memory and, past a bound, on disk."""

import resource
import tempfile
from pathlib import Path

import pytest
import torch

from epmq_export.errors import OutputError
from epmq_export.models.activations import Activations


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
    resource.setrlimit(
        resource.RLIMIT_FSIZE, (1000, hard)
    )  # the kernel refuses what goes past it, as a full disk would
    try:
        with pytest.raises(OutputError, match=r"epmq-activations-.*File too large"), Activations(0) as kept:
            kept.put(("a",), torch.zeros(10_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [*spills.iterdir()] == []


def test_an_offer_is_taken_while_half_of_the_bound_is_left(spills: Path) -> None:
    with Activations(200) as kept:
        kept.offer(("a",), torch.ones(20))  # 80 of 100
        kept.offer(("b",), torch.ones(20))
        assert kept.has(("a",)) and not kept.has(("b",)) and kept.held == 80
        kept.put(("c",), torch.ones(20))  # what must be kept has the other half too
        assert kept.has(("c",)) and kept.held == 160
        kept.drop(("a",))
        kept.offer(("d",), torch.ones(5))
        assert kept.has(("d",)) and kept.held == 100
        assert [*spills.rglob("*.safetensors")] == []  # an offer is never spilled


def test_an_offer_that_is_not_taken_leaves_nothing_of_an_older_value(spills: Path) -> None:
    with Activations(200) as kept:
        kept.offer(("a",), torch.ones(20))
        kept.offer(("a",), torch.zeros(30))
        assert not kept.has(("a",)) and kept.held == 0


def test_has_sees_memory_and_disk(spills: Path) -> None:
    with Activations(100) as kept:
        assert not kept.has(("a",))
        assert [*spills.iterdir()] == []  # asking makes no folder
        kept.put(("a",), torch.zeros(20))
        kept.put(("b",), torch.zeros(20))
        assert kept.has(("a",)) and kept.has(("b",)) and not kept.has(("c",))
        assert len([*spills.rglob("*.safetensors")]) == 1
        kept.drop(("a",))
        kept.drop(("b",))
        assert not kept.has(("a",)) and not kept.has(("b",))


@pytest.mark.parametrize("old", ["memory", "disk"])
@pytest.mark.parametrize("new", ["memory", "disk", "nothing"])
def test_a_move_replaces_what_was_there_wherever_both_are(spills: Path, old: str, new: str) -> None:
    with Activations(100) as kept:
        for place, key, value in ((new, "new", 1.0), (old, "old", 2.0)):
            if place == "disk":
                kept.put((key,), torch.full((30,), value))  # 120 bytes: never in memory
            elif place == "memory":
                kept.put((key,), torch.full((10,), value))
        kept.move(("old",), ("new",))
        assert kept.has(("new",)) and not kept.has(("old",))
        assert set(kept.get(("new",)).tolist()) == {2.0}
        assert kept.held == (40 if old == "memory" else 0)
        assert len([*spills.rglob("*.safetensors")]) == (old == "disk")
        kept.put(("old",), torch.zeros(10))  # the key is free again
        assert kept.get(("new",)).sum() == 2 * kept.get(("new",)).numel()
