"""The finished blocks of a run that goes on."""

from pathlib import Path

import pytest

from epmq_export.calibration.resume import FinishedBlocks
from epmq_export.errors import RecipeError

RUN = {"recipe": {"alpha": 0.5}, "layout": {"overrides": ()}}


def test_a_run_goes_on_from_its_own_blocks_only(tmp_path: Path) -> None:
    place = tmp_path / "blocks"
    FinishedBlocks(place, RUN, threads=2, resume=False).put_search({"found": 1})
    assert FinishedBlocks(place, RUN, threads=2, resume=True).search() == {"found": 1}
    with pytest.raises(RecipeError, match=r"\(alpha was 0\.5 and is 1 in the recipe\); start again with"):
        FinishedBlocks(place, {**RUN, "recipe": {"alpha": 1}}, threads=2, resume=True)
    assert FinishedBlocks(place, RUN, threads=2, resume=False).search() is None


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
