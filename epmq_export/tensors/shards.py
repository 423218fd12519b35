"""The weights of a model's directory as transformers lays them out: model.safetensors or, beyond a size, an
index and the shards that it names. Those of a packed checkpoint lie in the same way under another name.
"""

import json
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from epmq_export.errors import InputError
from epmq_export.tensors.directory import MODEL, read_shard_index, require_in_shard
from epmq_export.tensors.safetensors_file import SafetensorsFile
from epmq_export.tensors.source import RowReader

# The most bytes of tensors in a shard. This was long the default of transformers.
SHARD_BYTES = 5 * 10**9


class StoredWeights:
    """The weights of a model's directory that are called `name`. Opening it reads the headers only.

    Raises InputError where a file is missing or not well-formed, or where index and shards disagree.
    """

    def __init__(self, directory: Path, name: str = MODEL) -> None:
        self.directory = directory
        whole, index = directory / f"{name}.safetensors", directory / f"{name}.safetensors.index.json"
        if whole.exists() or not index.exists():
            file = SafetensorsFile(whole)
            self._holders = dict.fromkeys(file.names(), file)
            self._files = [file.path]
        else:
            self._holders = _sharded(index)
            self._files = [*{file.path for file in self._holders.values()}, index]

    def names(self) -> list[str]:
        return sorted(self._holders)

    def shape(self, name: str) -> tuple[int, ...]:
        return self._holder(name).shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return self._holder(name).dtype(name)

    def load(self, name: str) -> Tensor:
        return self._holder(name).load(name)

    def row_reader(self, name: str) -> RowReader:
        return self._holder(name).row_reader(name)

    def files(self) -> list[Path]:
        return sorted(self._files)

    def place(self, name: str) -> Path:
        """Return the file that holds a tensor or, for one that is not there, the file that should name it."""
        return self._holders[name].path if name in self._holders else self._files[-1]

    def _holder(self, name: str) -> SafetensorsFile:
        if name not in self._holders:
            raise InputError(f"{self.place(name)}: no tensor {name}")
        return self._holders[name]


def groups(sizes: Mapping[str, int], limit: int) -> list[list[str]]:
    """Divide names, in the order given, into groups of at most `limit` bytes each. A name that is larger is a
    group of its own.
    """
    found: list[list[str]] = [[]]
    filled = 0
    for name, size in sizes.items():
        if found[-1] and filled + size > limit:
            found.append([])
            filled = 0
        found[-1].append(name)
        filled += size
    return found


def split(sizes: Mapping[str, int], limit: int, name: str = MODEL) -> dict[str, list[str]]:
    """Return the names that each file is to hold, by the file's name."""
    shards = groups(sizes, limit)
    if len(shards) == 1:
        return {f"{name}.safetensors": shards[0]}
    return {
        f"{name}-{number:05d}-of-{len(shards):05d}.safetensors": names
        for number, names in enumerate(shards, 1)
    }


def write_index(directory: Path, placed: Mapping[str, str], total: int, name: str = MODEL) -> None:
    """Write the index of shards that hold `total` bytes of tensors. `placed` is the shard of each tensor."""
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(placed.items()))}
    (directory / f"{name}.safetensors.index.json").write_text(
        json.dumps(index, indent=2) + "\n", encoding="utf-8"
    )


def _sharded(index: Path) -> dict[str, SafetensorsFile]:
    """Return the file that holds each tensor, by the tensor's name."""
    placed = read_shard_index(index)
    opened = {shard: SafetensorsFile(index.parent / shard) for shard in sorted(set(placed.values()))}
    for shard, file in opened.items():
        expected = {name for name, place in placed.items() if place == shard}
        require_in_shard(index, shard, expected, set(file.names()))
    return {name: opened[shard] for name, shard in sorted(placed.items())}
