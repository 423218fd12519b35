"""The contract of a file format. `formats` fulfils it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from epmq_export.grids.layout import Storage
from epmq_export.models.family import Family
from epmq_export.tensors.packed import Packed, PackedTensor
from epmq_export.tensors.packed_index import PackedIndex


@dataclass(frozen=True)
class StoredTensor:
    """A tensor as a written file holds it, read back."""

    name: str
    """The canonical name."""

    value: PackedTensor | Tensor
    """Codes and scales, or plain values in the dtype of the file."""

    raw: NDArray[np.uint8] | None = None
    """The bytes in the file, for a runtime's own dequantiser. None where the format has no such bytes."""

    decoded: bool = False
    """Whether the file holds the values that codes and scales stand for, in place of these."""


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor that is to be written, with everything that its size depends on."""

    shape: tuple[int, ...]
    storage: Storage
    """The storage that the packed checkpoint would give it."""


class WrittenModel(Protocol):
    """The files of a model that a format wrote, for one family.

    Opening one reads nothing. Each file is read once, when it is first needed, whichever method needs it.
    Every method raises InputError where a file is not whole and well-formed. At most the weights of one file
    are in memory at a time.
    """

    @property
    def path(self) -> Path:
        """Return the file that tasks are judged by."""
        ...

    def files(self, family: Family) -> Mapping[Path, Sequence[Family]]:
        """Return the files that belong to the model, `path` first, each with the towers of the family that a
        runtime can run it for.
        """
        ...

    def tensors(self) -> Iterator[StoredTensor]:
        """Yield every tensor of the files, as the packed checkpoint has it."""
        ...

    def differences(self, packed: Packed) -> list[str]:
        """Return a sentence for each difference between the metadata, tokenizer and files beside the model
        and what the format would write from the packed checkpoint.
        """
        ...

    def exact(self, file: Path, scratch: Path) -> Path:
        """Return a file that computes what `file`, one of these, holds, without the low-precision kernels of
        a runtime. For GGUF it is an F32 twin, made from the file itself and written into `scratch`. For ONNX
        it is the file itself, because there exactness is an option of the session.
        """
        ...

    def notes(self) -> dict[str, Any]:
        """Return facts for the report, such as how many linears are quantised."""
        ...


class Format(Protocol):
    """A file format: it writes a packed checkpoint, and opens what it wrote."""

    @property
    def name(self) -> str:
        """Return the name that `--format` and a recipe use: `gguf`, `onnx`."""
        ...

    @property
    def grids(self) -> frozenset[str]:
        """Return the names of the grids of `epmq_export.grids.GRIDS` that it holds bit for bit."""
        ...

    @property
    def packages(self) -> Sequence[str]:
        """Return the distributions that write and read it. The report has their versions."""
        ...

    @property
    def fixed_seconds(self) -> tuple[float, float]:
        """Return what writing a model takes whatever its size is, the least and the most that was seen."""
        ...

    def write(self, packed: Packed, family: Family, folder: Path) -> Path:
        """Write the model into the folder, which exists and is empty, and return the file that tasks are
        judged by.
        """
        ...

    def sizes(
        self, tensors: Mapping[str, PlannedTensor], family: Family, index: PackedIndex
    ) -> Mapping[str, Mapping[str, int]]:
        """Return the bytes of each file that `write` would write for such tensors, by its path in the folder:
        those of the data by type, and those of everything else as `rest`. `index` is what packed.json would
        say.
        """
        ...

    def find(self, folder: Path, family: Family) -> Path:
        """Return the file that `write` returned for the family in a folder that it filled.

        Raises InputError where there is no such file.
        """
        ...

    def open(self, path: Path, family: Family) -> WrittenModel:
        """Return the model at `path`, which `write` returned for the family. Nothing is read yet."""
        ...

    def left_out(self, family: Family) -> frozenset[str]:
        """Return the canonical names of tensors of a packed checkpoint that no file of this format holds."""
        ...
