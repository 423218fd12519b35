"""The weights of an ONNX model beside its file, where they are more than a protobuf message can hold.

They lie in MODEL.onnx_data, a name of optimum and transformers.js, in the order of the initializers. Each
begins at the next multiple of 4096 bytes, so that a runtime can map it. An initializer without data stays in
the model.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from onnx import ModelProto, TensorProto

from epmq_export.errors import InputError
from formats.onnx import weights as onnx_weights

ENDING, ALIGNMENT = "_data", 4096
_KEYS = ("location", "offset", "length")


def beside(path: Path) -> Path:
    """Return the file of the weights of the model at `path`, which is there if they are not in the model."""
    return path.with_name(f"{path.name}{ENDING}")


def used(model: ModelProto) -> bool:
    """Return whether a model has weights in another file."""
    return any(tensor.data_location == TensorProto.EXTERNAL for tensor in model.graph.initializer)


def aligned(end: int) -> int:
    """Return the place where the next tensor begins."""
    return -(-end // ALIGNMENT) * ALIGNMENT


def taken(sizes: Iterable[int]) -> int:
    """Return the bytes of a data file of tensors of such sizes, in this order."""
    end = 0
    for size in sizes:
        end = aligned(end) + size if size else end
    return end


def write(
    place: Path, location: str, tensors: Sequence[TensorProto], data: Callable[[TensorProto], bytes]
) -> None:
    """Write the tensors' data to `place`, one in memory at a time, and note in each that it lies in
    `location`.
    """
    with place.open("wb") as file:
        for tensor in tensors:
            raw = data(tensor)
            if not raw:
                continue
            start = aligned(file.tell())
            file.write(bytes(start - file.tell()))
            file.write(raw)
            tensor.data_location = TensorProto.EXTERNAL
            for key, value in zip(_KEYS, (location, start, len(raw)), strict=True):
                tensor.external_data.add(key=key, value=str(value))


def check(path: Path, model: ModelProto) -> None:
    """Raise InputError unless all data that the model at `path` keeps elsewhere lie in the one file beside
    it, as `write` lays them out.

    The model itself names the place. Without the check it could make this project read any other file of this
    machine.
    """
    outside = [tensor for tensor in model.graph.initializer if tensor.data_location == TensorProto.EXTERNAL]
    if not outside:
        return
    file = beside(path)
    size = file.stat().st_size if file.is_file() else None
    end = 0
    for tensor in outside:
        start, length = _place(tensor, path)
        if size is None:
            raise InputError(f"{path}: {tensor.name} keeps its data in {file.name}, which is not there")
        if start != aligned(end):
            raise InputError(
                f"{path}: the data of {tensor.name} begin at byte {start} of {file.name}, expected "
                f"{aligned(end)}: behind the tensor before it"
            )
        end = start + length
        if end > size:
            raise InputError(
                f"{path}: the data of {tensor.name} end at byte {end} of {file.name}, which has {size}"
            )
    if size is not None and size > end:
        raise InputError(f"{path}: {file.name} has {size} bytes, expected {end}: its last tensor ends there")


def read(path: Path, tensor: TensorProto) -> bytes:
    """Return the data of an initializer of the model at `path` that lie beside it, which the caller has
    checked.

    Raises InputError where the file beside it cannot be read, or is too short.
    """
    start, length = _place(tensor, path)
    return read_at(beside(path), start, length, tensor.name)


def read_at(file: Path, start: int, length: int, name: str) -> bytes:
    """Return the data of a tensor at a place of a file. Raises InputError where it cannot be read, or is too
    short.
    """
    try:
        with file.open("rb") as opened:
            opened.seek(start)
            raw = opened.read(length)
    except OSError as error:
        raise InputError(f"{file}: not readable ({error.strerror})") from None
    if len(raw) != length:
        raise InputError(f"{file}: ends within the data of {name}")
    return raw


def _place(tensor: TensorProto, path: Path) -> tuple[int, int]:
    """Return the place where the data of a tensor begin in the file beside the model, and their length, which
    its type and dims ask for.

    Raises InputError where the model says something else.
    """
    told = {entry.key: entry.value for entry in tensor.external_data}
    expected = beside(path).name
    if tensor.raw_data or len(tensor.external_data) != len(_KEYS) or set(told) != set(_KEYS):
        raise InputError(
            f"{path}: {tensor.name} keeps its data in another file and tells {dict(told)!r:.80} of them, "
            f"expected {', '.join(_KEYS)} alone"
        )
    if told["location"] != expected:
        raise InputError(
            f"{path}: {tensor.name} keeps its data in {told['location']!r:.80}, expected {expected} beside it"
        )
    for key in _KEYS[1:]:
        if not re.fullmatch("[0-9]{1,18}", told[key]):
            raise InputError(
                f"{path}: {tensor.name} has {told[key]!r:.40} as the {key} of its data, expected a number "
                "of bytes"
            )
    onnx_weights.check_size(tensor, int(told["length"]), str(path))
    return int(told["offset"]), int(told["length"])
