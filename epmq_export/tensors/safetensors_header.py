"""The header of a safetensors file, with any dtype that the library knows. The tensors are not read."""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from epmq_export.errors import InputError
from epmq_export.files import refuse_pointer
from epmq_export.tensors.description import TensorDescription


@dataclass(frozen=True)
class Header:
    """The metadata and the tensors that a safetensors file declares."""

    metadata: dict[str, str]
    tensors: list[TensorDescription]
    """The tensors in the order of their data."""


def read_header(path: Path) -> Header:
    """Read the header of a safetensors file.

    The library checks the file. The header is then parsed once more for the sizes of the tensors, which the
    library does not give. Raises InputError where the file is not whole and well-formed.
    """
    try:
        with safe_open(path, "numpy"):
            pass
        with path.open("rb") as file:
            content = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    except (SafetensorError, OSError) as error:
        refuse_pointer(path, "not whole and well-formed safetensors")
        raise InputError(f"{path}: not whole and well-formed safetensors ({error})") from None
    metadata = content.pop("__metadata__", None) or {}
    entries = sorted(content.items(), key=lambda entry: (entry[1]["data_offsets"], entry[0]))
    sizes = {name: entry["data_offsets"][1] - entry["data_offsets"][0] for name, entry in entries}
    return Header(
        metadata,
        [
            TensorDescription(name=name, type=entry["dtype"], shape=tuple(entry["shape"]), bytes=sizes[name])
            for name, entry in entries
        ],
    )
