"""The room on a disk is asked before the work."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from epmq_export.errors import OutputError
from epmq_export.files.room import require_room


class Usage(NamedTuple):
    total: int
    used: int
    free: int


def test_places_on_one_disk_need_their_room_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def usage(path: Path) -> Usage:
        asked.append(Path(path))
        return Usage(0, 0, 4_000_000_000)

    monkeypatch.setattr(shutil, "disk_usage", usage)
    here, deep = tmp_path / "out", tmp_path / "not" / "yet"
    require_room({here: 2_000_000_000, deep: 2_000_000_000})
    assert asked == [tmp_path.resolve()]
    told = r"out: found 4 GB left on its disk, expected at least 4\.5 GB for what is written there$"
    with pytest.raises(OutputError, match=told):
        require_room({here: 2_500_000_000, deep: 2_000_000_000})


def test_the_room_there_is_is_enough_for_nothing(tmp_path: Path) -> None:
    require_room({tmp_path: 0})
    with pytest.raises(OutputError, match="expected at least 1e\\+12 GB"):
        require_room({tmp_path: 10**21})
