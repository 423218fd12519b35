"""The room that a disk has left, asked before the work."""

import os
import shutil
from collections.abc import Mapping
from pathlib import Path

from epmq_export.errors import OutputError


def require_room(needed: Mapping[Path, int]) -> None:
    """Raise OutputError where a file system has fewer bytes left for this user than the places on it need
    together. A place need not be there yet.

    What others write meanwhile, and a quota that the system does not tell of, still end in the error of a
    full disk.
    """
    together: dict[int, tuple[Path, int]] = {}
    for path, count in needed.items():
        device = _nearest(path).stat().st_dev
        place, others = together.get(device, (path, 0))
        together[device] = place, others + count
    for place, count in together.values():
        free = shutil.disk_usage(_nearest(place)).free
        if free < count:
            raise OutputError(
                f"{place}: found {free / 1e9:.3g} GB left on its disk, expected at least "
                f"{count / 1e9:.3g} GB for what is written there"
            )


def _nearest(path: Path) -> Path:
    """Return the path, or the nearest of its parents that is there."""
    place = Path(os.path.realpath(path))
    return next(each for each in (place, *place.parents) if each.exists())
