"""A stand-in for the hub's library, which needs no network."""

from pathlib import Path

import datasets
import pytest


class Hub:
    """Stand in for `datasets.load_dataset`."""

    def __init__(
        self, monkeypatch: pytest.MonkeyPatch, folder: Path, found: datasets.Dataset | Exception
    ) -> None:
        self.found = found
        self.calls: list[object] = []
        monkeypatch.setattr(datasets, "load_dataset", self)
        monkeypatch.chdir(folder)

    def __call__(
        self, name: str, config: str | None, *, split: str, revision: str | None
    ) -> datasets.Dataset:
        self.calls.append((name, config, split, revision))
        if isinstance(self.found, Exception):
            raise self.found
        return self.found
