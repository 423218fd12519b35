"""The writing of a GGUF file: everything before the tensors' data, and then the tensors one by one."""

from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, cast

import numpy as np
from gguf import GGMLQuantizationType, GGUFWriter
from numpy.typing import NDArray
from torch import Tensor

from epmq_export.tensors.gguf_file import ALIGNMENT, ALIGNMENT_KEY, Value
from epmq_export.tensors.packed import PackedTensor
from formats.gguf.blocks import encode
from formats.gguf.placement import Layout, data_bytes


def write_gguf(
    path: Path,
    metadata: Mapping[str, Value],
    layout: Layout,
    tensors: Iterable[Iterable[PackedTensor | Tensor]],
) -> None:
    """Write a file with these keys and, in the order of the layout, these tensors, each in the parts that lie
    one behind the other in it, with one in memory at a time.
    """
    writer = GGUFWriter(path, "")
    try:
        writer.kv_data[0].clear()  # The architecture is one of the keys below, in its own place.
        for key, value in metadata.items():
            writer.add_key_value(key, value.value, value.type, value.items)
        writer.data_alignment = metadata[ALIGNMENT_KEY].value if ALIGNMENT_KEY in metadata else ALIGNMENT
        for name, (kind, shape) in layout.items():
            # It writes the type's number, which need not be one that the package knows.
            number = cast("GGMLQuantizationType", kind.number)
            writer.add_tensor_info(name, shape, np.dtype(np.float32), data_bytes(kind, shape), number)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for parts, (kind, shape) in zip(tensors, layout.values(), strict=True):
            writer.write_tensor_data(_joined(map(encode, parts), data_bytes(kind, shape)))
    finally:
        writer.close()


def _joined(parts: Iterator[NDArray[Any]], size: int) -> NDArray[Any]:
    """Return parts one behind the other, which are `size` bytes together."""
    part = next(parts)
    if part.nbytes == size:
        return part
    content, end = np.empty(size, np.uint8), 0
    for each in chain([part], parts):
        content[end : end + each.nbytes] = each.reshape(-1).view(np.uint8)
        end += each.nbytes
    return content
