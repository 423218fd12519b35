"""A disk of a few kilobytes, which fills up as a large one does. Making one takes the rights of root."""

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest


@dataclass(frozen=True)
class Disk:
    place: Path

    def resize(self, size: int) -> None:
        self._remount(f"size={size}")

    def forbid_writing(self) -> None:
        self._remount("ro")

    def fill(self) -> None:
        """Leave no byte of it."""
        with (self.place / "filler").open("wb", buffering=0) as file:
            try:
                while file.write(bytes(4096)):
                    pass
            except OSError:
                pass

    def _remount(self, option: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{option}", str(self.place)], check=True)


@contextmanager
def small_disk(place: Path, size: int = 1 << 24) -> Iterator[Disk]:
    """Mount a disk of some bytes at a directory that is made for it. Skip the test where nobody may."""
    if sys.platform != "linux" or os.geteuid() != 0:
        pytest.skip("only root may mount a disk")
    place.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(place)], capture_output=True, text=True
    )
    if done.returncode != 0:
        pytest.skip(f"no disk can be mounted here: {done.stderr.strip()}")
    try:
        yield Disk(place)
    finally:
        subprocess.run(["umount", "--lazy", str(place)], check=True)
