"""The finished blocks of a run that goes on."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from epmq_export.calibration.calibrator import BlockResult
from epmq_export.calibration.resume import FinishedBlocks
from epmq_export.errors import RecipeError
from epmq_export.grids import GRIDS
from epmq_export.tensors import packed_writer, shards
from epmq_export.tensors.packed import PackedTensor
from tests.command_line.command import tree
from tests.tiny.grid_points import random_point
from tests.tiny.packed_index import an_index

RUN = {"recipe": {"alpha": 0.5}, "layout": {"overrides": ()}}


def test_a_run_goes_on_from_its_own_blocks_only(tmp_path: Path) -> None:
    place = tmp_path / "blocks"
    FinishedBlocks(place, RUN, threads=2, resume=False).put_search({"found": 1})
    assert FinishedBlocks(place, RUN, threads=2, resume=True).search() == {"found": 1}
    with pytest.raises(RecipeError, match=r"\(alpha was 0\.5 and is 1 in the recipe\); start again with"):
        FinishedBlocks(place, {**RUN, "recipe": {"alpha": 1}}, threads=2, resume=True)
    assert FinishedBlocks(place, RUN, threads=2, resume=False).search() is None


def test_finished_blocks_are_read_back_part_by_part(tmp_path: Path) -> None:
    """The same bytes as of tensors in memory, on grids of every kind and plain, in one file and in shards."""
    blocks: list[dict[str, PackedTensor | Tensor]] = [
        {"b.weight": random_point(GRIDS["Q4_0"], 4, 2, 0), "b.bias": torch.ones(4)},
        {"a.weight": random_point(GRIDS["Q4_K"], 3, 1, 1), "a.half": torch.ones(2, 3).half()},
        {"c.weight": random_point(GRIDS["Q8_0"], 2, 1, 2), "c.scalar": torch.tensor(2.5)},
    ]
    finished = FinishedBlocks(tmp_path / "blocks", RUN, threads=1, resume=False)
    for number, tensors in enumerate(blocks):
        finished.put(f"block.{number}", BlockResult(tensors, [], [f"note {number}"]))
    whole = {name: value for tensors in blocks for name, value in tensors.items()}
    for limit in (10**9, 200):
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(shards, "SHARD_BYTES", limit)
            packed_writer.write_parts(tmp_path / "parts", finished.stored(), an_index("bert"), tmp_path, {})
            packed_writer.write(tmp_path / "memory", whole, an_index("bert"), tmp_path)
        assert tree(tmp_path / "parts") == tree(tmp_path / "memory")
        assert len(tree(tmp_path / "parts")) == (2 if limit == 10**9 else 6)


def test_a_finished_block_is_written_once(tmp_path: Path) -> None:
    run = FinishedBlocks(tmp_path / "blocks", RUN, threads=1, resume=False)
    run.put("block", BlockResult({"a": torch.ones(2)}, [], ["told"]))
    (file,) = (tmp_path / "blocks").glob("*.safetensors")
    before = file.stat().st_ino
    again = FinishedBlocks(tmp_path / "blocks", RUN, threads=1, resume=True)
    found = again.get("block")
    assert found is not None and found.notes == ["told"] and again.get("other") is None
    assert again.stored().names() == []  # Nothing of it is the result until the run has come to it.
    again.put("block", found)
    assert again.stored().names() == ["a"] and file.stat().st_ino == before


def test_blocks_of_no_run_are_nothing(tmp_path: Path) -> None:
    """A process was killed before it said whose they would be, or while it removed them."""
    (place := tmp_path / "blocks").mkdir()
    (place / "search.json").write_text('{"found": 1}')
    assert FinishedBlocks(place, RUN, threads=2, resume=True).search() is None
    FinishedBlocks(place, RUN, threads=2, resume=True).remove()
    assert [*tmp_path.iterdir()] == []


def test_another_number_of_threads_is_noted(tmp_path: Path) -> None:
    place = tmp_path / "blocks"
    assert FinishedBlocks(place, RUN, threads=2, resume=False).notes == []
    (note,) = FinishedBlocks(place, RUN, threads=1, resume=True).notes
    assert note.startswith("begun with 2 threads and gone on with 1") and "--threads 2" in note
