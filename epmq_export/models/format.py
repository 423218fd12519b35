"""What the method asks of a file format. `formats` answers."""

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
    """Canonical name."""

    value: PackedTensor | Tensor
    """Codes and scales, or plain values in the dtype of the file."""

    raw: NDArray[np.uint8] | None = None
    """The bytes in the file, for a runtime's own dequantiser; None where the format has no such thing."""


@dataclass(frozen=True)
class PlannedTensor:
    """A tensor that is to be written: what a size can be told from."""

    shape: tuple[int, ...]
    storage: Storage
    """As the packed checkpoint would hold it."""


class WrittenModel(Protocol):
    """The files of a model that a format wrote, for one family.

    Opening one reads nothing. Each file is read once, when it is first needed, whatever is asked first:
    InputError from any method where it is not whole and well-formed. One file's weights at most are in memory
    at a time.
    """

    @property
    def path(self) -> Path:
        """The file that tasks are judged by."""
        ...

    def files(self, family: Family) -> Mapping[Path, Sequence[Family]]:
        """Return the files that belong to the model, `path` first, each with the towers of the family that a
        runtime can run it for.
        """
        ...

    def tensors(self) -> Iterator[StoredTensor]:
        """Give every tensor of the files, as the packed checkpoint has it."""
        ...

    def differences(self, packed: Packed) -> list[str]:
        """Return where metadata, tokenizer and files beside the model differ from what the format would write
        of the packed checkpoint, a sentence each.
        """
        ...

    def exact(self, file: Path, scratch: Path) -> Path:
        """Return a file that computes what `file`, one of these, holds without a runtime's low-precision
        kernels: for GGUF an F32 twin made from the file itself, written into `scratch`; for ONNX the file,
        since there it is an option of the session.
        """
        ...

    def notes(self) -> dict[str, Any]:
        """Return facts for the report, such as how many linears are quantised."""
        ...


class Format(Protocol):
    @property
    def name(self) -> str:
        """What `--format` and a recipe call it: `gguf`, `onnx`."""
        ...

    @property
    def grids(self) -> frozenset[str]:
        """The names of the grids of `epmq_export.grids.GRIDS` that it holds bit for bit."""
        ...

    @property
    def packages(self) -> Sequence[str]:
        """The distributions that write and read it, whose versions the report tells."""
        ...

    def write(self, packed: Packed, family: Family, folder: Path) -> Path:
        """Write the model into the folder, which exists and is empty, and return the file that tasks are
        judged by.
        """
        ...

    def sizes(
        self, tensors: Mapping[str, PlannedTensor], family: Family, index: PackedIndex
    ) -> Mapping[str, Mapping[str, int]]:
        """Return, for each file that `write` would write of such tensors, by its path in the folder, the
        bytes of the data by their type, and as `rest` of all else. `index` is what packed.json would say of
        the origin.
        """
        ...

    def find(self, folder: Path, family: Family) -> Path:
        """Return what `write` returned for the family in a folder that it filled; InputError where nothing of
        the kind is there.
        """
        ...

    def open(self, path: Path, family: Family) -> WrittenModel:
        """Return the model at `path`, which `write` returned for the family; nothing is read yet."""
        ...

    def left_out(self, family: Family) -> frozenset[str]:
        """Return the canonical names of tensors of a packed checkpoint that no file of this format holds."""
        ...
