"""The data of a weight in an ONNX file: bytes of an initializer from tensors, and tensors from bytes that are
checked first.
"""

from math import prod

import torch
from onnx import TensorProto
from torch import Tensor

from epmq_export.errors import InputError

BITS: dict[int, int] = {
    TensorProto.UINT2: 2,
    TensorProto.INT4: 4,
    TensorProto.UINT4: 4,
    TensorProto.INT8: 8,
    TensorProto.UINT8: 8,
    TensorProto.FLOAT16: 16,
    TensorProto.FLOAT: 32,
}
_DTYPES: dict[int, torch.dtype] = {
    TensorProto.INT8: torch.int8,
    TensorProto.UINT8: torch.uint8,
    TensorProto.FLOAT16: torch.float16,
    TensorProto.FLOAT: torch.float32,
}


def size(tensor: TensorProto) -> int:
    """Return the bytes of data that its type and dims ask for."""
    bits: int = prod(tensor.dims) * BITS[tensor.data_type]
    return (bits + 7) // 8


def encode(tensor: TensorProto, value: Tensor) -> bytes:
    """Return `value`, which has the dims of `tensor`, as raw data: little-endian, with codes of 2 or 4 bits
    four or two a byte, the first in the lowest bits.
    """
    flat, bits = value.contiguous().flatten(), BITS[tensor.data_type]
    if bits >= 8:
        return flat.to(_DTYPES[tensor.data_type]).numpy().tobytes()
    count = 8 // bits
    codes = torch.cat((flat, flat.new_zeros(-len(flat) % count))).view(torch.uint8)
    content = torch.zeros(len(codes) // count, dtype=torch.uint8)
    for place in range(count):
        content |= (codes[place::count] & (2**bits - 1)) << (place * bits)
    return content.numpy().tobytes()


def decode(tensor: TensorProto, data: bytes) -> Tensor:
    """Return the tensor that `encode` was given for `data`. The caller has checked it."""
    raw = torch.frombuffer(bytearray(data) or bytearray(1), dtype=torch.uint8)[: len(data)]
    bits = BITS[tensor.data_type]
    if bits >= 8:
        return raw.view(_DTYPES[tensor.data_type]).reshape(tuple(tensor.dims))
    # Shifting an int8 down keeps its sign.
    signed = raw.view(torch.int8) if tensor.data_type == TensorProto.INT4 else raw
    places = range(8 - bits, -1, -bits)
    codes = torch.stack([signed << place >> (8 - bits) for place in places], dim=-1).flatten()
    return codes[: prod(tensor.dims)].reshape(tuple(tensor.dims))


def check(tensor: TensorProto, held: int, where: str) -> None:
    """Raise InputError unless the tensor's type is one that this project writes and the `held` bytes of its
    data in the model, where they are there, have the right size.
    """
    if tensor.data_type not in BITS:
        raise InputError(
            f"{where}: {tensor.name} is of type {type_name(tensor)}, expected one of "
            f"{', '.join(TensorProto.DataType.Name(kind) for kind in BITS)}"
        )
    if any(dim < 0 for dim in tensor.dims):
        raise InputError(f"{where}: {tensor.name} has dims {list(tensor.dims)}, expected none below 0")
    if tensor.data_location != TensorProto.EXTERNAL:
        check_size(tensor, held, where)
    elif held:
        raise InputError(f"{where}: {tensor.name} has {held} bytes of data beside those in another file")


def check_size(tensor: TensorProto, found: int, where: str) -> None:
    """Raise InputError unless its type and dims ask for that many bytes."""
    if found != (expected := size(tensor)):
        raise InputError(
            f"{where}: {tensor.name} holds {found} bytes of data, expected {expected} for "
            f"{type_name(tensor)} {list(tensor.dims)}"
        )


def type_name(tensor: TensorProto) -> str:
    """Return the name of a tensor's type, as messages show it."""
    known = tensor.data_type in TensorProto.DataType.values()
    return str(TensorProto.DataType.Name(tensor.data_type)) if known else f"number {tensor.data_type}"
