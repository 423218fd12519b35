"""The calibrated checkpoint: codes, stored scales, the high-precision rest, and where it all came from.

A directory:

    packed.json          format, family, grid by tensor, losses, recipe, inputs with SHA-256, versions
    model.safetensors    `NAME.codes` uint8 (4-bit codes two a byte, the even column in the low nibble, offset so that the lowest
                         code is 0; 8-bit codes int8), `NAME.scales` float16 [out, in / group], every other tensor by its name
    ...                  config, tokenizer and whatever else the family's directory holds, unchanged

`export` and `verify` need nothing else.
"""

import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from epmq_export import files
from epmq_export.errors import InputError
from epmq_export.grids import GRIDS, Grid

FORMAT = "epmq-packed-1"
INDEX, WEIGHTS = "packed.json", "model.safetensors"
# Beside the weights in a model's directory; the rest of such a directory (other weights, caches, pictures) stays behind.
COMPANIONS = ("*.json", "*.txt", "*.model", "*.jinja", "*/config.json")
_OWN = {INDEX, "model.safetensors.index.json", "adapter_config.json"}


@dataclass(frozen=True)
class PackedTensor:
    """One tensor on a grid: codes int8 [out, in], scales float16 [out, in / group]."""

    grid: Grid
    codes: Tensor
    scales: Tensor

    def dequantise(self) -> Tensor:
        """float32 [out, in]."""
        return self.grid.dequantise(self.codes, self.scales)


def pack_codes(grid: Grid, codes: Tensor) -> Tensor:
    if grid.bits > 4:
        return codes
    unsigned = (codes - grid.lowest).to(torch.uint8)
    return unsigned[:, 0::2] | (unsigned[:, 1::2] << 4)


def unpack_codes(grid: Grid, stored: Tensor) -> Tensor:
    if grid.bits > 4:
        return stored
    unsigned = torch.stack((stored & 15, stored >> 4), dim=-1).flatten(1)
    return unsigned.to(torch.int8) + grid.lowest


def companions(directory: Path) -> list[Path]:
    """Config, tokenizer and pooling files of a model's directory, sorted."""
    found = {path for pattern in COMPANIONS for path in directory.glob(pattern) if path.name not in _OWN}
    return sorted(path for path in found if path.is_file())


def copy_companions(source: Path, target: Path) -> None:
    for path in companions(source):
        place = target / path.relative_to(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(path, place)


class Packed:
    """A packed checkpoint on disk. As a `TensorSource` it yields the values that the file ships, dequantised to float32."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        index = directory / INDEX
        try:
            self.index: dict[str, Any] = json.loads(index.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise InputError(f"{directory} is no packed checkpoint: it has no {INDEX}") from None
        except (ValueError, OSError) as error:
            raise InputError(f"{index}: not readable as JSON ({error})") from None
        if not isinstance(self.index, dict) or self.index.get("format") != FORMAT:
            found = self.index.get("format") if isinstance(self.index, dict) else type(self.index).__name__
            raise InputError(f"{index}: format is {found!r}, expected {FORMAT!r}")
        if not isinstance(self.index.get("grids"), dict):
            raise InputError(f"{index}: grids is no object from tensors to grids")
        self.grids: dict[str, Grid] = {}
        placed = self.index.get("grids")
        if not isinstance(placed, dict):
            raise InputError(f"{index}: grids is {placed!r:.80}, expected an object of tensors and {', '.join(GRIDS)}")
        for name, grid in placed.items():
            if not isinstance(grid, str) or grid not in GRIDS:
                raise InputError(f"{index}: tensor {name} is on grid {grid!r}, expected one of {', '.join(GRIDS)}")
            self.grids[name] = GRIDS[grid]
        weights = directory / WEIGHTS
        try:
            file: Any = safe_open(weights, "pt")
            stored: set[str] = set(file.keys())
        except (SafetensorError, OSError) as error:
            raise InputError(f"{weights}: not readable as safetensors ({error})") from None
        self._file = file
        self._names = sorted({name.removesuffix(".codes") for name in stored if not name.endswith(".scales")})
        for name in self.grids:
            for part in (f"{name}.codes", f"{name}.scales"):
                if part not in stored:
                    raise InputError(f"{weights}: {part} is missing, {INDEX} says that {name} is on grid {self.grids[name].name}")

    def names(self) -> list[str]:
        return self._names

    def tensor(self, name: str) -> PackedTensor | Tensor:
        """As stored: on its grid, or plain."""
        if name in self.grids:
            grid = self.grids[name]
            return PackedTensor(grid, unpack_codes(grid, self._file.get_tensor(f"{name}.codes")), self._file.get_tensor(f"{name}.scales"))
        if name not in self._names:
            raise InputError(f"{self.directory / WEIGHTS}: no tensor {name}")
        # A copy of the caller's own: the library hands out views of one mapping.
        plain: Tensor = self._file.get_tensor(name).clone()
        return plain

    def shape(self, name: str) -> tuple[int, ...]:
        if name in self.grids:
            out, groups = self._file.get_slice(f"{name}.scales").get_shape()
            return out, groups * self.grids[name].group
        return tuple(self._file.get_slice(name).get_shape())

    def load(self, name: str) -> Tensor:
        value = self.tensor(name)
        return value.dequantise() if isinstance(value, PackedTensor) else value


def flatten(tensors: Mapping[str, PackedTensor | Tensor]) -> tuple[dict[str, Tensor], dict[str, str]]:
    """As safetensors stores them, and the grid of each that is on one; in the order of the names."""
    stored: dict[str, Tensor] = {}
    grids: dict[str, str] = {}
    for name, value in sorted(tensors.items()):
        if isinstance(value, PackedTensor):
            grids[name] = value.grid.name
            stored[f"{name}.codes"] = pack_codes(value.grid, value.codes).cpu().contiguous()
            stored[f"{name}.scales"] = value.scales.cpu().contiguous()
        else:
            stored[name] = value.cpu().contiguous()
    return stored, grids


def unflatten(stored: Mapping[str, Tensor], grids: Mapping[str, str]) -> dict[str, PackedTensor | Tensor]:
    """Back from `flatten`."""
    tensors: dict[str, PackedTensor | Tensor] = {}
    for name, value in stored.items():
        owner, _, part = name.rpartition(".")
        if owner not in grids:
            tensors[name] = value
        elif part == "codes":
            grid = GRIDS[grids[owner]]
            tensors[owner] = PackedTensor(grid, unpack_codes(grid, value), stored[f"{owner}.scales"])
    return tensors


def write(directory: Path, tensors: Mapping[str, PackedTensor | Tensor], index: Mapping[str, Any], source: Path) -> None:
    """Write a packed checkpoint, whole or not at all, with the companions of the model directory `source`.

    `index` holds everything of packed.json but `format` and `grids`. The same arguments give the same bytes.
    """
    stored, grids = flatten(tensors)
    with files.whole(directory) as built:
        built.mkdir()
        copy_companions(source, built)
        save_file(stored, built / WEIGHTS)
        text = json.dumps({"format": FORMAT, **index, "grids": grids}, indent=1, ensure_ascii=False)
        (built / INDEX).write_text(text + "\n", encoding="utf-8")
