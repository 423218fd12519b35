"""Named tensors with their dtypes, and the safetensors files that hold them."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from epmq_export.errors import InputError, OutputError
from epmq_export.files import refuse_pointer
from epmq_export.tensors.source import RowReader

# The names that safetensors' headers use. Eight-bit floats are absent on purpose: without their scales they
# mean nothing.
DTYPES = {
    "F64": torch.float64,
    "F32": torch.float32,
    "F16": torch.float16,
    "BF16": torch.bfloat16,
    "I64": torch.int64,
    "I32": torch.int32,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}


class SafetensorsFile:
    """One safetensors file. Opening it reads and checks the header; `load` reads the bytes of a tensor.

    Raises InputError where the file is not whole and well-formed, or has no tensor of the name asked for.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        if not path.is_file():
            raise InputError(f"{path}: no such file")
        try:
            file: Any = safe_open(path, "pt")  # The type hints of the library are incomplete.
            self._file, self._names = file, sorted(file.keys())
        except (SafetensorError, OSError) as error:
            refuse_pointer(path, "not whole and well-formed safetensors")
            raise InputError(f"{path}: not whole and well-formed safetensors ({error})") from None
        self._headers = {name: self._header(name) for name in self._names}

    def names(self) -> list[str]:
        return self._names

    def shape(self, name: str) -> tuple[int, ...]:
        return self._known(name)[0]

    def dtype(self, name: str) -> torch.dtype:
        return self._known(name)[1]

    def load(self, name: str) -> Tensor:
        # Without a copy, one caller's change in place would be seen by the next caller.
        return self._mapped(name).clone()

    def row_reader(self, name: str) -> RowReader:
        whole = self._mapped(name)
        return lambda start, stop: whole[start:stop]

    def _mapped(self, name: str) -> Tensor:
        """Return a tensor as the library hands it out: a view of one private mapping of the file."""
        self._known(name)
        try:
            tensor: Tensor = self._file.get_tensor(name)
        except (SafetensorError, OSError, RuntimeError) as error:
            raise InputError(f"{self.path}: tensor {name} cannot be read ({error})") from None
        return tensor

    def _header(self, name: str) -> tuple[tuple[int, ...], torch.dtype]:
        part = self._file.get_slice(name)
        if part.get_dtype() not in DTYPES:
            raise InputError(
                f"{self.path}: tensor {name} is of dtype {part.get_dtype()}, expected unquantised weights "
                f"({', '.join(DTYPES)})"
            )
        return tuple(part.get_shape()), DTYPES[part.get_dtype()]

    def _known(self, name: str) -> tuple[tuple[int, ...], torch.dtype]:
        if name not in self._headers:
            raise InputError(f"{self.path}: no tensor {name}")
        return self._headers[name]


def write_safetensors(
    path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str] | None = None
) -> None:
    """Write one safetensors file. Raises OutputError where the disk does not take it."""
    path.touch()
    mode = path.stat().st_mode
    try:
        save_file(dict(tensors), path, metadata)
    except SafetensorError as error:
        raise OutputError(f"{path}: cannot be written ({error})") from None
    # The library makes files that only their owner can read. A model gets the mode of the user's other files.
    path.chmod(mode)
