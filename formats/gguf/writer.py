"""The writing of a GGUF file: everything before the tensors' data, and then the tensors one by one."""

from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from gguf import GGUFWriter
from torch import Tensor

from epmq_export.tensors.gguf_file import ALIGNMENT, ALIGNMENT_KEY, Value
from epmq_export.tensors.packed import PackedTensor
from formats.gguf.blocks import encode
from formats.gguf.placement import Layout, data_bytes


def write_gguf(
    path: Path, metadata: Mapping[str, Value], layout: Layout, tensors: Iterable[PackedTensor | Tensor]
) -> None:
    """Write a file with these keys and, in the order of the layout, these tensors, with one in memory at a
    time.
    """
    writer = GGUFWriter(path, "")
    try:
        writer.kv_data[0].clear()  # The architecture is one of the keys below, in its own place.
        for key, value in metadata.items():
            writer.add_key_value(key, value.value, value.type, value.items)
        writer.data_alignment = metadata[ALIGNMENT_KEY].value if ALIGNMENT_KEY in metadata else ALIGNMENT
        for name, (kind, shape) in layout.items():
            writer.add_tensor_info(name, shape, np.dtype(np.float32), data_bytes(kind, shape), kind)
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for tensor in tensors:
            writer.write_tensor_data(encode(tensor))
    finally:
        writer.close()
