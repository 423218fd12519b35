"""An ordinary directory of Hugging Face with the values that a packed checkpoint's codes stand for.

    config.json, tokenizer files, ...    As in the model's directory, with the dtype of these weights.
    model.safetensors                    Every tensor in float32, which holds the values exactly. More than 5
                                         GB lie in shards, with an index as transformers has them.

Any loader in PyTorch reads it (transformers, sentence-transformers, vLLM, text-embeddings-inference). It is
as large as the model before: what is gained is the model that the other formats hold, and not its size.

The metadata of each file of weights have the keys `epmq.version`, and `epmq.recipe`, `epmq.inputs`,
`epmq.versions` and `epmq.method` in JSON, as the packed checkpoint has them.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from epmq_export._version import __version__
from epmq_export.errors import InputError
from epmq_export.files import read_json
from epmq_export.grids import GRIDS
from epmq_export.models.family import Family, towers
from epmq_export.models.format import PlannedTensor, StoredTensor
from epmq_export.tensors import shards
from epmq_export.tensors.directory import CONFIG, SHARD_INDEX, WEIGHTS
from epmq_export.tensors.packed import Packed
from epmq_export.tensors.packed_index import PackedIndex
from epmq_export.tensors.safetensors_header import read_header
from epmq_export.tensors.safetensors_writer import write_one_by_one
from epmq_export.tensors.shards import StoredWeights
from formats.companions import files_in, files_of
from formats.tokenizer_files import as_json, tokenizer_files

NAME = "safetensors"
# The bytes of a tensor's entry in a header besides its name.
_ENTRY = 65


class Safetensors:
    """The format of a directory that any loader in PyTorch reads."""

    name = NAME
    packages = ("safetensors",)
    grids = frozenset(GRIDS)
    fixed_seconds = 0.1, 1.0

    def write(self, packed: Packed, family: Family, folder: Path) -> Path:
        for name, content in _files_beside(packed.directory, family).items():
            place = folder / name
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_bytes(content)
        sizes = {name: 4 * prod(packed.shape(name)) for name in packed.names()}
        parts = shards.split(sizes, shards.SHARD_BYTES)
        for file, names in parts.items():
            write_one_by_one(folder / file, _Values(packed), names, _metadata(packed.index))
        if len(parts) > 1:
            placed = {name: file for file, names in parts.items() for name in names}
            shards.write_index(folder, placed, sum(sizes.values()))
        return self.find(folder, family)

    def sizes(
        self, tensors: Mapping[str, PlannedTensor], family: Family, index: PackedIndex
    ) -> Mapping[str, Mapping[str, int]]:
        sizes = {name: 4 * prod(tensor.shape) for name, tensor in sorted(tensors.items())}
        told = sum(map(len, _metadata(index).values()))
        return {
            file: {
                "F32": sum(sizes[name] for name in names),
                "rest": told + sum(len(name) + _ENTRY for name in names),
            }
            for file, names in shards.split(sizes, shards.SHARD_BYTES).items()
        }

    def find(self, folder: Path, family: Family) -> Path:
        for name in (WEIGHTS, SHARD_INDEX):
            if (folder / name).is_file():
                return folder / name
        raise InputError(f"{folder}: it has no {WEIGHTS}")

    def open(self, path: Path, family: Family) -> "WrittenSafetensors":
        return WrittenSafetensors(path, family)

    def left_out(self, family: Family) -> frozenset[str]:
        return frozenset()


class WrittenSafetensors:
    """A directory that this format wrote."""

    def __init__(self, path: Path, family: Family) -> None:
        """Take `path`, which is the file of the weights or the index of their shards. Nothing is read yet."""
        self.path, self._family = path, family

    def files(self, family: Family) -> Mapping[Path, Sequence[Family]]:
        rest: dict[Path, Sequence[Family]] = {file: [] for file in self._shards()}
        return {self.path: towers(family), **rest}

    def tensors(self) -> Iterator[StoredTensor]:
        stored = StoredWeights(self.path.parent)
        for name in stored.names():
            yield StoredTensor(name, stored.load(name), decoded=True)

    def differences(self, packed: Packed) -> list[str]:
        """Return a sentence for each difference in metadata, dtypes and the files beside the weights."""
        folder, expected = self.path.parent, _metadata(packed.index)
        stored = StoredWeights(folder)
        sentences = [
            f"tensor {name} is {str(stored.dtype(name)).removeprefix('torch.')}, expected float32"
            for name in stored.names()
            if stored.dtype(name) != torch.float32
        ]
        for file in self._shards() or [self.path]:
            found = read_header(file).metadata
            sentences += [
                f"{file.name}: metadata key {key} is not what the packed checkpoint says"
                for key in sorted(found.keys() | expected.keys())
                if found.get(key) != expected.get(key)
            ]
        wanted = _files_beside(packed.directory, self._family)
        there = files_in(folder)
        return sentences + [
            f"{name} differs from the packed checkpoint's"
            for name in sorted(wanted.keys() | there.keys())
            if wanted.get(name) != there.get(name)
        ]

    def exact(self, file: Path, scratch: Path) -> Path:
        """Return the file itself, because it has values and no codes."""
        return file

    def notes(self) -> dict[str, Any]:
        return {}

    def _shards(self) -> list[Path]:
        """Return the files that an index names, or none where there is no index."""
        return [file for file in StoredWeights(self.path.parent).files() if file != self.path]


@dataclass(frozen=True)
class _Values:
    """The values of a packed checkpoint, all in float32. The dtypes that it has lose nothing by that."""

    packed: Packed

    def names(self) -> Sequence[str]:
        return self.packed.names()

    def shape(self, name: str) -> tuple[int, ...]:
        return self.packed.shape(name)

    def dtype(self, name: str) -> torch.dtype:
        return torch.float32

    def load(self, name: str) -> Tensor:
        return self.packed.load(name).float()


def _metadata(index: PackedIndex) -> dict[str, str]:
    origin = {
        f"epmq.{key}": json.dumps(value, ensure_ascii=False, sort_keys=True)
        for key, value in index.provenance.items()
    }
    return {"format": "pt", "epmq.version": __version__, **origin}


def _files_beside(source: Path, family: Family) -> dict[str, bytes]:
    """Return the files beside the weights, by name, for the packed checkpoint `source`."""
    found = files_of(source, family)
    config = read_json(source / CONFIG)
    keys = [key for key in ("dtype", "torch_dtype") if key in config] or ["dtype"]
    told: dict[str, object] = dict.fromkeys(keys, "float32")
    if any(config.get(key) != value for key, value in told.items()):
        found[CONFIG] = as_json({**config, **told})
    if any(tower.images is None for tower in towers(family)):
        found |= tokenizer_files(source, found)
    return found
