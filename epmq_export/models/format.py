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


class Format(Protocol):
    @property
    def name(self) -> str:
        """As in `--format` and in a recipe: `gguf`, `onnx`."""
        ...

    @property
    def grids(self) -> frozenset[str]:
        """The names of the grids that a file can hold bit for bit."""
        ...

    @property
    def packages(self) -> Sequence[str]:
        """The packages that write and read it, whose versions a report tells."""
        ...

    def write(self, packed: Packed, family: Family, folder: Path) -> Path:
        """Write the model into the folder (which exists and is empty); the path of the file that tasks are
        judged by.
        """
        ...

    def sizes(
        self, tensors: Mapping[str, PlannedTensor], family: Family, index: PackedIndex
    ) -> Mapping[str, Mapping[str, int]]:
        """Of each file that `write` would write of such tensors, by its path in the folder: the bytes of the
        data by their type, and as `rest` of all else. `index` is what packed.json would say of the origin.
        """
        ...

    def find(self, folder: Path) -> Path:
        """The same path in a folder that `write` filled; InputError where there is none."""
        ...

    def contents(self, path: Path, family: Family) -> Mapping[Path, Sequence[Family]]:
        """The files that belong to the model at `path`, itself first, each with the towers that a runtime can
        run it for.
        """
        ...

    def tensors(self, path: Path, family: Family) -> Iterator[StoredTensor]:
        """Every tensor of the files; InputError with the reason where the file is not whole and
        well-formed.
        """
        ...

    def left_out(self, family: Family) -> frozenset[str]:
        """Canonical names of tensors of a packed checkpoint that no file of this format holds."""
        ...

    def differences(self, path: Path, packed: Packed, family: Family) -> list[str]:
        """Where metadata, tokenizer and files beside the model differ from what `write` would write, a
        sentence each.
        """
        ...

    def exact(self, path: Path, scratch: Path) -> Path:
        """A file that computes what `path` holds without a runtime's low-precision kernels: for GGUF an F32
        twin made from the file itself, written into `scratch`; for ONNX the file, since there it is an option
        of the session.
        """
        ...

    def notes(self, path: Path, family: Family) -> dict[str, Any]:
        """Facts for the report, such as how many linears the runtime fuses."""
        ...
