"""The packed checkpoint: a calibrated model's codes and stored numbers, its tensors in high precision, and
its origin.

It is a directory with these files:

packed.json          Format, family, the grid of each tensor, losses, recipe, inputs with SHA-256, versions.
packed.safetensors   `NAME.codes`: uint8 [out, in / 2] for codes of up to 4 bits, offset so that the lowest
                     code is 0, with an even column in the low nibble and the next in the high one; int8
                     [out, in] for longer codes. `NAME.scales`: float16 [out, in / group]. The other numbers
                     that the grid stores: one tensor for each part. Every other tensor under its own name.
                     More than 5 GB lie in shards with an index as transformers has them, the codes and
                     parts of one tensor in one shard. The name keeps loaders of whole models from taking
                     codes for weights; where nothing is on a grid, it is model.safetensors.
...                  Config, tokenizer and the other companions of the model's directory, unchanged.

`export` and `verify` need nothing else.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from math import prod
from pathlib import Path

import torch
from torch import Tensor

from epmq_export.errors import InputError
from epmq_export.grids import GRIDS, Grid, Stored
from epmq_export.grids.layout import Storage
from epmq_export.tensors.directory import (
    MODEL,
    PACKED,
    PACKED_INDEX,
    PACKED_SHARD_INDEX,
    PACKED_WEIGHTS,
    SHARD_INDEX,
    WEIGHTS,
)
from epmq_export.tensors.packed_index import PackedIndex
from epmq_export.tensors.shards import StoredWeights
from epmq_export.tensors.source import TensorSource

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class PackedTensor:
    """One tensor on a grid: codes, int8 [out, in], and the grid's stored numbers by part, such as scales,
    float16 [out, in / group].
    """

    grid: Grid
    codes: Tensor
    stored: Stored

    def dequantise(self) -> Tensor:
        """Return the values, float32 [out, in]."""
        return self.grid.dequantise(self.codes, self.stored)

    def to(self, device: torch.device | str) -> "PackedTensor":
        """Return it on a device. Tensors that are there already are shared."""
        stored = {part: value.to(device) for part, value in self.stored.items()}
        return PackedTensor(self.grid, self.codes.to(device), stored)

    def rows(self, rows: slice) -> "PackedTensor":
        """Return some of its rows, copied."""
        return PackedTensor(
            self.grid,
            self.codes[rows].clone(),
            {part: value[rows].clone() for part, value in self.stored.items()},
        )


def dequantised(value: PackedTensor | Tensor) -> Tensor:
    """Return the values of a tensor, float32 where it is on a grid. A plain tensor is returned as it is."""
    return value.dequantise() if isinstance(value, PackedTensor) else value


def pack_codes(grid: Grid, codes: Tensor) -> Tensor:
    """Return codes, int8 [out, in], as the file stores them: uint8 [out, in / 2] for codes of up to 4
    bits.
    """
    if grid.bits > 4:
        return codes
    unsigned = (codes - grid.lowest).to(torch.uint8)
    return unsigned[:, 0::2] | (unsigned[:, 1::2] << 4)


def unpack_codes(grid: Grid, stored: Tensor) -> Tensor:
    """Return the codes, int8 [out, in], that `pack_codes` stored."""
    if grid.bits > 4:
        return stored
    unsigned = torch.stack((stored & 15, stored >> 4), dim=-1).flatten(1)
    return unsigned.to(torch.int8) + grid.lowest


def _no_packed(directory: Path) -> str:
    """Return a sentence about a place that holds no packed checkpoint."""
    if not directory.exists():
        return f"{directory}: no such directory, expected a packed checkpoint"
    inner = next((path.parent for path in sorted(directory.glob(f"*/{PACKED_INDEX}"))), None)
    near = "" if inner is None else f", did you mean {str(inner)!r}?"
    return f"{directory} is no packed checkpoint: it has no {PACKED_INDEX}{near}"


class Packed:
    """A packed checkpoint on disk. As a `TensorSource` it gives the values that the file ships, dequantised
    to float32.

    Raises InputError where the directory is no packed checkpoint, or its tensors do not agree with its index.
    """

    directory: Path
    """The directory, which holds config and tokenizer, too."""

    index: PackedIndex
    """What packed.json says."""

    grids: Mapping[str, Grid]
    """The grid of each tensor that is on one, by the tensor's name."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        index = directory / PACKED_INDEX
        if not index.is_file():
            raise InputError(_no_packed(directory))
        self.index = PackedIndex.read(index)
        self.grids = {name: GRIDS[grid] for name, grid in self.index.grids.items()}
        self._file = StoredWeights(directory, _name_in(directory, bool(self.grids)))
        stored = set(self._file.names())
        for name, grid in self.grids.items():
            for part in places_of(name, grid).values():
                if part not in stored:
                    raise InputError(
                        f"{self._file.place(part)}: {part} is missing, {PACKED_INDEX} says that {name} is on "
                        f"grid {grid.name}"
                    )
            self._require_layout(name, grid)
        self._names = sorted(
            {*self.grids, *stored}.difference(
                *(places_of(name, grid).values() for name, grid in self.grids.items())
            )
        )

    def files(self) -> list[Path]:
        """Return the files that hold its tensors and say what they are."""
        return [*self._file.files(), self.directory / PACKED_INDEX]

    def names(self) -> list[str]:
        """Return the names of all tensors, sorted."""
        return self._names

    def tensor(self, name: str) -> PackedTensor | Tensor:
        """Return a tensor as it is stored, on its grid or plain: a copy that the caller owns.

        Raises InputError where a code or a stored number is one that the grid does not have.
        """
        value = assembled(self._file, name, self.grids.get(name))
        if isinstance(value, PackedTensor):
            self._require_range(name, value)
        return value

    def shape(self, name: str) -> tuple[int, ...]:
        """Return the shape of a tensor."""
        if name in self.grids:
            out, groups = self._file.shape(f"{name}.scales")
            return out, groups * self.grids[name].group
        return self._file.shape(name)

    def storage(self, name: str) -> Grid | torch.dtype:
        """Return what the tensor is stored on: its grid, or the dtype of a plain one. Reads no values."""
        return self.grids.get(name) or self._file.dtype(name)

    def load(self, name: str) -> Tensor:
        """Return the values that a tensor ships: float32 where it is on a grid."""
        return dequantised(self.tensor(name))

    def _require_layout(self, name: str, grid: Grid) -> None:
        """Raise InputError where codes and stored numbers do not have the dtypes and shapes that `flatten`
        writes for the grid.
        """
        places = places_of(name, grid)
        found = {
            part: f"{str(self._file.dtype(place)).removeprefix('torch.')} {list(self._file.shape(place))}"
            for part, place in places.items()
        }
        scales = self._file.shape(places["scales"])
        out, groups = scales if len(scales) == 2 else (0, 0)
        expected = {
            part: f"{str(dtype).removeprefix('torch.')} {list(shape)}"
            for part, (dtype, shape) in parts_of((out, groups * grid.group), grid).items()
        }
        if found != expected:
            text = " and ".join(f"{part} {layout}" for part, layout in found.items())
            raise InputError(
                f"{self._file.place(places[CODES])}: tensor {name} has {text}, expected "
                f"{' and '.join(expected.values())} on grid {grid.name}"
            )

    def _require_range(self, name: str, value: PackedTensor) -> None:
        """Raise InputError where a code or a stored integer is one that the grid does not have."""
        ranges = {CODES: (value.codes, value.grid.lowest, value.grid.highest)}
        for part, kind in value.grid.parts.items():
            if not kind.dtype.is_floating_point:
                ranges[part] = (value.stored[part], 0, 2**kind.bits - 1)
        for part, (numbers, lowest, highest) in ranges.items():
            if numbers.numel() and not lowest <= int(numbers.min()) <= int(numbers.max()) <= highest:
                found = f"{int(numbers.min())} to {int(numbers.max())}"
                where = self._file.place(places_of(name, value.grid)[part])
                raise InputError(
                    f"{where}: tensor {name} has {part} from {found}, expected {lowest} to {highest} on "
                    f"grid {value.grid.name}"
                )
        if not value.grid.holds(value.stored):
            parts = " and ".join(value.stored)
            raise InputError(
                f"{self._file.place(places_of(name, value.grid)[CODES])}: tensor {name} has {parts} that "
                f"{value.grid.name} does not have together"
            )


CODES = "codes"


def _name_in(directory: Path, on_grids: bool) -> str:
    """Return what a packed checkpoint's weights are called. Those of earlier versions are told in the log."""
    if any((directory / file).exists() for file in (PACKED_WEIGHTS, PACKED_SHARD_INDEX)):
        return PACKED
    found = next((file for file in (WEIGHTS, SHARD_INDEX) if (directory / file).exists()), None)
    if found is not None and on_grids:
        _tell(
            f"{directory / found}: found the old name of a packed checkpoint's weights, expected "
            f"{PACKED_WEIGHTS}: loaders of whole models take its codes for weights"
        )
    return PACKED if found is None and on_grids else MODEL


@cache
def _tell(sentence: str) -> None:
    """Log a warning, once for each sentence, because a command opens a checkpoint several times."""
    log.warning("%s", sentence)


def places_of(name: str, grid: Grid) -> dict[str, str]:
    """Return the names under which a tensor's codes and stored numbers lie in the file, by part."""
    return {part: f"{name}.{part}" for part in (CODES, *grid.parts)}


def parts_of(shape: tuple[int, ...], grid: Grid) -> dict[str, tuple[torch.dtype, tuple[int, ...]]]:
    """Return dtype and shape of the codes and of each stored number of a tensor, as the file has them."""
    out, width = shape
    codes = (torch.uint8, (out, width // 2)) if grid.bits <= 4 else (torch.int8, (out, width))
    groups = width // grid.group
    return {
        CODES: codes,
        **{part: (kind.dtype, (out, groups * kind.count)) for part, kind in grid.parts.items()},
    }


def assembled(source: TensorSource, name: str, grid: Grid | None) -> PackedTensor | Tensor:
    """Return a tensor, on its grid or plain, of a source that has it in parts."""
    if grid is None:
        return source.load(name)
    found = {part: source.load(place) for part, place in places_of(name, grid).items()}
    return PackedTensor(grid, unpack_codes(grid, found.pop(CODES)), found)


def flatten(tensors: Mapping[str, PackedTensor | Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Return the tensors as safetensors stores them, and the grid of each that is on one, in the order of the
    names.
    """
    stored: dict[str, Tensor] = {}
    grids: dict[str, str] = {}
    for name, value in sorted(tensors.items()):
        if isinstance(value, PackedTensor):
            grids[name] = value.grid.name
            stored[f"{name}.codes"] = pack_codes(value.grid, value.codes).cpu().contiguous()
            stored |= {f"{name}.{part}": numbers.cpu().contiguous() for part, numbers in value.stored.items()}
        else:
            stored[name] = value.cpu().contiguous()
    return stored, grids


def unflatten(stored: Mapping[str, Tensor], grids: Mapping[str, str]) -> dict[str, PackedTensor | Tensor]:
    """Return the tensors that `flatten` stored."""
    places = {name: places_of(name, GRIDS[grid]) for name, grid in grids.items()}
    taken = {place for parts in places.values() for place in parts.values()}
    tensors: dict[str, PackedTensor | Tensor] = {
        name: value for name, value in stored.items() if name not in taken
    }
    for name, parts in places.items():
        grid, found = GRIDS[grids[name]], {part: stored[place] for part, place in parts.items()}
        tensors[name] = PackedTensor(grid, unpack_codes(grid, found.pop(CODES)), found)
    return tensors


def stored_bytes(shape: tuple[int, ...], storage: Storage) -> int:
    """Return the bytes that a tensor of a shape takes in a packed checkpoint."""
    if not isinstance(storage, Grid):
        return prod(shape) * storage.itemsize
    numbers = sum(part.count * part.dtype.itemsize for part in storage.parts.values())
    return prod(shape) * (4 if storage.bits <= 4 else 8) // 8 + prod(shape) // storage.group * numbers


def exported_bytes(shape: tuple[int, ...], storage: Storage) -> int:
    """Return the bytes that a tensor of a shape takes in a file of any format, at the least."""
    bits = storage.bits_per_weight if isinstance(storage, Grid) else 8 * storage.itemsize
    return int(prod(shape) * bits / 8)


@dataclass(frozen=True)
class Values:
    """Tensors in memory by name, on a grid or plain, read as the values that a file ships."""

    tensors: Mapping[str, PackedTensor | Tensor]

    def names(self) -> list[str]:
        return sorted(self.tensors)

    def shape(self, name: str) -> tuple[int, ...]:
        return tuple(self.load(name).shape)

    def tensor(self, name: str) -> PackedTensor | Tensor:
        """Return a tensor as it is stored, on its grid or plain."""
        return self.tensors[name]

    def load(self, name: str) -> Tensor:
        """Return a tensor, float32 where it is on a grid: a copy that the caller owns."""
        value = self.tensors[name]
        return value.dequantise() if isinstance(value, PackedTensor) else value.clone()
