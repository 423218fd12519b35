"""Folders that are costly to fill and that many tests read: the first worker that asks for one fills it, the
others wait and read it.
"""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from filelock import FileLock

_rooms: list[Path] = []


def share(factory: pytest.TempPathFactory) -> None:
    """Keep the folders under the run's base directory, which the workers of one run have in common."""
    base = factory.getbasetemp()
    enter(base.parent if "PYTEST_XDIST_WORKER" in os.environ else base)


def room() -> Path:
    """Return the folder that holds them. Another process of the run may be told of it."""
    (room,) = _rooms
    return room


def enter(room: Path) -> None:
    """Use the folders of the run whose room this is."""
    _rooms[:] = [room]


def built_once(name: str, build: Callable[[Path], object]) -> Path:
    """Return the folder `name` as `build`, called with it while it is empty, has filled it. It is read only.

    A `build` that fails is called again by the next test that asks, with an empty folder.
    """
    place = room() / "built-once" / name
    done = place.with_name(f"{name}.done")
    place.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(place.with_name(f"{name}.lock")):
        if not done.exists():
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir()
            build(place)
            done.touch()
    return place
